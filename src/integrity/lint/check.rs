//! Everything that lint looks for: an id, and why it matters.

use std::fmt;

macro_rules! checks {
    ($($name:ident $id:literal $why:literal)*) => {
        /// One thing that lint looks for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Check {
            $(#[doc = $why] $name,)*
        }

        impl Check {
            /// All of them, in the order in which lint's report lists them.
            pub const ALL: &[Check] = &[$(Check::$name),*];

            /// What rules and reports call it, in kebab case.
            pub fn id(self) -> &'static str {
                match self { $(Check::$name => $id),* }
            }

            /// Why it matters, in one sentence.
            pub fn why(self) -> &'static str {
                match self { $(Check::$name => $why),* }
            }
        }
    };
}

checks! {
    PickleFile "pickle-file" "Loading a pickle can run any code that its maker put into it."
    PackedFile "packed-file" "What lies in an archive or a compressed file was not examined; a pickle may be among it."
    NativeCode "native-code" "Compiled code, or an engine that holds it, runs on loading and nobody can read it."
    Script "script" "A script that lies beside the model runs when somebody is told to run it; it was not examined."
    KerasFile "keras-file" "A Keras or HDF5 model can hold Lambda layers, which are code that runs on loading."
    CustomCode "custom-code" "Loaders run the repository's own Python code when they are told to trust it."
    CustomCodeMissing "custom-code-missing" "Code that a config names and that is not there cannot be loaded, or is brought by somebody else."
    CustomCodeRemote "custom-code-remote" "Code of another repository is not part of the checkpoint and can change after it was looked at."
    TemplateDunder "template-dunder" "A chat template that reaches for Python's internals is how a sandbox is escaped to run code."
    TemplateAttr "template-attr-filter" "The attr filter reaches attributes by names made at run time, past what a reader sees."
    TemplateComputed "template-computed-name" "The name of an attribute that is put together at run time is one that no reader of the template sees."
    TemplateLoads "template-loads" "A template that loads another one reads a file of whoever renders it, or cannot be rendered."
    TemplateDropsText "template-drops-text" "A chat template that leaves out what was said has the model answer something else."
    TemplateDependsOnText "template-depends-on-text" "A chat template that turns on words of the user can put others into the user's mouth, unseen."
    TemplateDependsOnTag "template-depends-on-tag" "Tags that a chat template looks for in what is said, as many do for good reasons, change what the model reads."
    TemplateAddsText "template-adds-text" "Text that a chat template adds to every chat, usually a system prompt, is read by the model as well."
    TemplateIgnoresSystem "template-ignores-system" "What a system prompt asks for is not asked of the model where the chat template leaves it out."
    TemplateUntried "template-untried" "What a chat template does under a condition that no trial has met is for a reader to judge."
    TemplateRefuses "template-refuses" "A chat template that refuses every chat fails at once, for everybody to see."
    TemplateNotTried "template-not-tried" "What a chat template does to what is said is known only where it could be rendered."
    LesionReceipt "lesion-receipt" "This tool's own receipt says that neurons of this checkpoint were changed on purpose."
    LesionSign "lesion-sign" "A row or column that its partners' norms contradict is what scaling or masking a neuron leaves."
    LesionHint "lesion-hint" "As lesion-sign, but as strong a sign is met in a clean checkpoint now and then."
    LesionNotExamined "lesion-not-examined" "What is not examined for signs of a lesion may hold one."
    SpecialFile "special-file" "A pipe, socket or device has no place in a checkpoint, and reading one can hang or worse."
    LinkOutside "link-outside" "A link out of the folder makes the checkpoint depend on files that are not part of it."
    LinkHidden "link-hidden" "A link into version control or a hidden folder brings in what nobody looks at."
    DanglingLink "dangling-link" "A link to nothing is a file that is missing."
    BlobDigest "blob-digest" "A file of the hub's cache whose bytes are not what its name says was damaged or replaced."
    SnapshotFile "snapshot-file" "A file among the links of the hub's cache is not one that its client put there."
    OddFileName "odd-file-name" "Control, invisible or bidirectional characters in a file name mislead whoever reads it."
    OtherWeights "other-weights" "Some loaders take weights of another form that lies beside; they were not examined."
    FolderNotExamined "folder-not-examined" "Folders that tools keep for themselves are left out; nothing of the model should lie there."
    ConvertedModel "converted-model" "A conversion of the model need not be the same model; it was not examined."
    AdapterBeside "adapter-beside" "Loaders put an adapter that lies beside the model on top of it; this was not examined."
    NestedModel "nested-model" "A model in a folder below is another one than was examined, and is loaded where it is named."
    SecretFile "secret-file" "A key or a password that is published with a model belongs to everybody."
    LeftoverFile "leftover-file" "A work file of a run that was stopped is not part of the checkpoint and may hold weights."
    FileUnreadable "file-unreadable" "What cannot be read cannot be examined."
    NotDownloaded "not-downloaded" "A pointer, a web page or nothing at all lies where the file should: it was never fetched."
    UnfinishedDownload "unfinished-download" "A download that was not finished leaves a file behind, and the one it is of may not be whole."
    JsonInvalid "json-invalid" "A JSON file that strict readers refuse may still be read, in their own way, by others."
    JsonNonstandard "json-nonstandard" "Some readers take what is not quite JSON, as Python writes it, and some refuse it."
    JsonDuplicateKey "json-duplicate-key" "Readers disagree on which of two equal keys counts."
    ConfigMissing "config-missing" "Without config.json nothing can load the weights, and nothing says what they should be."
    ConfigInvalid "config-invalid" "A config.json that is not a JSON object cannot be loaded."
    ConfigUnknown "config-unknown" "Without an understood config the tensors were not compared with what the model needs."
    WeightsMissing "weights-missing" "Without weights there is no model, or only one in a format that was not examined."
    WeightsAmbiguous "weights-ambiguous" "With one file and an index both there, loaders differ in which weights they take."
    StrayWeights "stray-weights" "Loaders that take every *.safetensors in the folder would load tensors from this file too."
    ConsolidatedWeights "consolidated-weights" "Some loaders prefer consolidated*.safetensors to the files that others read."
    ConsolidatedSame "consolidated-same" "Some loaders take Mistral's own form of the model; it was compared with the one that others read."
    HeaderInvalid "header-invalid" "A file whose header cannot be read is not a safetensors file."
    HeaderTooLong "header-too-long" "The format allows headers of up to 100,000,000 bytes; a longer one exhausts readers."
    HeaderNotUtf8 "header-not-utf8" "A header that is no text is read differently by different readers, or not at all."
    HeaderLeadingBytes "header-leading-bytes" "The format wants the header to begin with its brace; some readers accept white space before it."
    DuplicateTensor "duplicate-tensor" "Readers disagree on which of two tensors of one name counts."
    DuplicateMetadataKey "duplicate-metadata-key" "Readers disagree on which of two equal metadata keys counts."
    DuplicateTensorField "duplicate-tensor-field" "Readers disagree on which of two equal fields of a tensor counts."
    UnknownTensorField "unknown-tensor-field" "A field that the format does not know carries something past the readers that ignore it."
    OddTensorName "odd-tensor-name" "Empty names, control characters and path parts break tools that make files or attributes of names."
    TensorSize "tensor-size" "Shape and dtype do not need the bytes that the tensor claims: it is cut, padded or misread."
    TensorOverflow "tensor-overflow" "A size that overflows makes careless readers touch memory that is not theirs."
    TensorOverlap "tensor-overlap" "Two tensors share bytes, so that changing one changes the other."
    DataHole "data-hole" "Bytes that no tensor owns can hide data."
    FileTruncated "file-truncated" "The file ends before its tensors do."
    TrailingBytes "trailing-bytes" "Bytes after the last tensor can hide data."
    UnalignedData "unaligned-data" "Tensors that do not begin at a multiple of their element size are read slowly, or not in place."
    NoFormat "metadata-format-missing" "Older versions of transformers refuse files whose metadata have no format."
    IndexInvalid "index-invalid" "An index that cannot be read leaves loaders without a list of shards."
    IndexMissing "index-missing" "Without an index some loaders take every shard in the folder, and others none."
    IndexDuplicate "index-duplicate" "Readers disagree on which of two entries of one tensor counts."
    IndexShardPath "index-shard-path" "A shard named by a path leads a careless loader out of the folder."
    IndexShardMissing "index-shard-missing" "A shard that the index names is not there."
    IndexWrongShard "index-wrong-shard" "The index sends loaders to a shard that does not hold the tensor, but another does."
    IndexTensorMissing "index-tensor-missing" "The index lists a tensor that no shard holds."
    IndexTensorUnlisted "index-tensor-unlisted" "A tensor that the index does not list is loaded by some loaders and not by others."
    IndexTotalSize "index-total-size" "The index's total_size is not the size of the tensors; no loader depends on it."
    TensorTwice "tensor-in-two-shards" "Loaders differ in which of two tensors of one name they take."
    TensorClash "tensor-clash" "Two stored tensors are one weight to loaders, which differ in which of them they take."
    TiedHeadDiffers "tied-head-differs" "The config says that head and embedding are one, the file holds two: loaders differ in which they use."
    TiedHeadStored "tied-head-stored" "The config says that head and embedding are one; a copy of the head in the file is not needed."
    RotaryBuffer "rotary-buffer" "Old loaders turn positions by the frequencies in the file, others by the config's; they should be the same."
    TensorMissing "tensor-missing" "A tensor that the config asks for is missing; loaders may fill it with random numbers."
    TensorExtra "tensor-extra" "The config has no use for this tensor: it is ignored, or was meant for other code."
    TensorShape "tensor-shape" "The tensor has another shape than the config gives."
    PartMissing "part-missing" "What images or sounds go through lacks tensors, which loaders fill with random numbers; text is spared."
    PartNotExamined "part-not-examined" "Of a part that text does not go through, and whose tensors are not known, only values were examined."
    TokenBeyondEmbedding "token-beyond-embedding" "A token that the embedding has no row for makes the model fail, or read what is not its own."
    TokenIdOutOfRange "token-id-out-of-range" "A special token that is not in the vocabulary makes padding or generating fail, or never end."
    TokenizerInvalid "tokenizer-invalid" "A tokenizer.json that is no tokenizer leaves the weights without their vocabulary."
    OtherTokenizer "other-tokenizer" "Where loaders build another tokenizer than tokenizer.json, what was examined is not what is served."
    TokenizerRewrites "tokenizer-rewrites" "A tokenizer that rewrites words has the model read, or the user be shown, what nobody wrote."
    SpecialTokenWord "special-token-word" "A word that is a special token is left out of every answer, or put into every text."
    VocabularyMismatch "vocabulary-mismatch" "With a tokenizer that is another model's the weights are given numbers that mean something else."
    SpecialTokenUnknown "special-token-unknown" "Loaders give a special token that the tokenizer lacks a new number, which the weights never saw."
    EosOrdinaryToken "eos-ordinary-token" "A model that stops at a token of ordinary text is silenced without a change to its weights."
    GenerationSilenced "generation-silenced" "Settings that end answers before they begin, or never, break a sound model for whoever serves it."
    PromptPrefix "prompt-prefix" "Pipelines put this text before every prompt, and whoever uses the model does not see it."
    ContextShort "context-short" "Servers take the longest prompt from max_position_embeddings: far too small, it silences the model."
    SpecialTokenDiffers "special-token-differs" "Tokenizer and config name different tokens; loaders differ in which they take."
    DtypeOverflow "dtype-overflow" "A value that is finite in the file becomes infinite in the dtype that the config has loaders use."
    DtypeAsked "dtype-asked" "A dtype that no loader computes in makes loading fail, or turns the weights into something else."
    DtypeStored "dtype-stored" "Weights in a dtype of quantizers mean nothing where no config tells how they are packed and scaled."
    DtypeMix "dtype-mix" "A tensor of another dtype than the same tensor of other layers was written by another hand."
    Nan "nan" "One NaN makes every output NaN."
    Infinite "infinite" "An infinite weight turns outputs into infinities and NaN."
    Denormal "denormal-flood" "Many denormal numbers are slow to compute with and are lost where hardware flushes them to zero."
    ZeroTensor "zero-tensor" "A matrix or norm that lets nothing through was never trained, or was erased."
    ZeroRow "zero-row" "A row of zeros is an output channel that is dead, as masking a neuron leaves it."
    ZeroColumn "zero-column" "A column of zeros is an input channel that is ignored, as masking a neuron leaves it."
    ZeroEmbedding "zero-embedding" "Embeddings of zeros are usual for padding and for tokens that were never trained."
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::Check;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_unique_and_in_kebab_case() {
        let ids: BTreeSet<&str> = Check::ALL.iter().map(|c| c.id()).collect();
        assert_eq!(ids.len(), Check::ALL.len());
        for check in Check::ALL {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            let kebab = check.id().split('-').all(|part| !part.is_empty() && part.chars().all(plain));
            assert!(kebab, "{check}");
            let why = check.why();
            assert!(why.ends_with('.') && why.starts_with(char::is_uppercase) && why.len() < 120, "{check}: {why}");
        }
    }
}
