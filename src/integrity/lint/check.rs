//! Everything that lint looks for: an id, and why it matters.

use std::fmt;
use strum::{EnumMessage, IntoStaticStr, VariantArray};

/// One thing that lint looks for. Its name in kebab case is the id, what is said of it here is why it matters: a
/// sentence that reports show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, IntoStaticStr, EnumMessage, VariantArray)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// Loading a pickle can run any code that its maker put into it.
    PickleFile,
    /// What lies in an archive or a compressed file was not examined; a pickle may be among it.
    PackedFile,
    /// Compiled code, or an engine that holds it, runs on loading and nobody can read it.
    NativeCode,
    /// A script that lies beside the model runs when somebody is told to run it; it was not examined.
    Script,
    /// A Keras or HDF5 model can hold Lambda layers, which are code that runs on loading.
    KerasFile,
    /// Loaders run the repository's own Python code when they are told to trust it.
    CustomCode,
    /// Code that a config names and that is not there cannot be loaded, or is brought by somebody else.
    CustomCodeMissing,
    /// Code of another repository is not part of the checkpoint and can change after it was looked at.
    CustomCodeRemote,
    /// A chat template that reaches for Python's internals is how a sandbox is escaped to run code.
    TemplateDunder,
    /// The attr filter reaches attributes by names made at run time, past what a reader sees.
    #[strum(serialize = "template-attr-filter")]
    TemplateAttr,
    /// The name of an attribute that is put together at run time is one that no reader of the template sees.
    #[strum(serialize = "template-computed-name")]
    TemplateComputed,
    /// A template that loads another one reads a file of whoever renders it, or cannot be rendered.
    TemplateLoads,
    /// A chat template that leaves out what was said has the model answer something else.
    TemplateDropsText,
    /// A chat template that turns on words of the user can put others into the user's mouth, unseen.
    TemplateDependsOnText,
    /// Tags that a chat template looks for in what is said, as many do for good reasons, change what the model reads.
    TemplateDependsOnTag,
    /// Text that a chat template adds to every chat, usually a system prompt, is read by the model as well.
    TemplateAddsText,
    /// What a system prompt asks for is not asked of the model where the chat template leaves it out.
    TemplateIgnoresSystem,
    /// What a chat template does under a condition that no trial has met is for a reader to judge.
    TemplateUntried,
    /// A chat template that refuses every chat fails at once, for everybody to see.
    TemplateRefuses,
    /// What a chat template does to what is said is known only where it could be rendered.
    TemplateNotTried,
    /// This tool's own receipt says that neurons of this checkpoint were changed on purpose.
    LesionReceipt,
    /// This tool's own receipt says that spares were written into this checkpoint: neurons that stand in for critical rows.
    HardenedReceipt,
    /// A row or column that its partners' norms contradict is what scaling or masking a neuron leaves.
    LesionSign,
    /// As lesion-sign, but as strong a sign is met in a clean checkpoint now and then.
    LesionHint,
    /// What is not examined for signs of a lesion may hold one.
    LesionNotExamined,
    /// A pipe, socket or device has no place in a checkpoint, and reading one can hang or worse.
    SpecialFile,
    /// A link out of the folder makes the checkpoint depend on files that are not part of it.
    LinkOutside,
    /// A link into version control or a hidden folder brings in what nobody looks at.
    LinkHidden,
    /// A link to nothing is a file that is missing.
    DanglingLink,
    /// A file of the hub's cache whose bytes are not what its name says was damaged or replaced.
    BlobDigest,
    /// A file among the links of the hub's cache is not one that its client put there.
    SnapshotFile,
    /// Control, invisible or bidirectional characters in a file name mislead whoever reads it.
    OddFileName,
    /// Some loaders take weights of another form that lies beside; they were not examined.
    OtherWeights,
    /// Folders that tools keep for themselves are left out; nothing of the model should lie there.
    FolderNotExamined,
    /// A conversion of the model need not be the same model; it was not examined.
    ConvertedModel,
    /// Loaders put an adapter that lies beside the model on top of it; this was not examined.
    AdapterBeside,
    /// A model in a folder below is another one than was examined, and is loaded where it is named.
    NestedModel,
    /// A key or a password that is published with a model belongs to everybody.
    SecretFile,
    /// A work file of a run that was stopped is not part of the checkpoint and may hold weights.
    LeftoverFile,
    /// What cannot be read cannot be examined.
    FileUnreadable,
    /// A pointer, a web page or nothing at all lies where the file should: it was never fetched.
    NotDownloaded,
    /// A download that was not finished leaves a file behind, and the one it is of may not be whole.
    UnfinishedDownload,
    /// A JSON file that strict readers refuse may still be read, in their own way, by others.
    JsonInvalid,
    /// Some readers take what is not quite JSON, as Python writes it, and some refuse it.
    JsonNonstandard,
    /// Readers disagree on which of two equal keys counts.
    JsonDuplicateKey,
    /// Without config.json nothing can load the weights, and nothing says what they should be.
    ConfigMissing,
    /// A config.json that is not a JSON object cannot be loaded.
    ConfigInvalid,
    /// What this tool does not compute is examined by its files alone: nothing says what tensors it needs.
    ConfigUnknown,
    /// A config that its own family's code could not follow is broken, or newer than this tool.
    ConfigRefused,
    /// Without weights there is no model, or only one in a format that was not examined.
    WeightsMissing,
    /// With one file and an index both there, loaders differ in which weights they take.
    WeightsAmbiguous,
    /// Loaders that take every *.safetensors in the folder would load tensors from this file too.
    StrayWeights,
    /// Nothing says what tensors weights need that lie there without a config.
    WeightsAlone,
    /// A pipeline cannot be loaded without a component, or module, that it lists.
    ComponentMissing,
    /// A tokenizer or scheduler that is listed and not there is taken from elsewhere, or loading fails.
    ComponentIncomplete,
    /// An adapter that is as before training changes nothing: it was never trained, or was erased.
    AdapterUntrained,
    /// A module that an adapter's config names and its weights lack, or the reverse, is not changed.
    AdapterTarget,
    /// An adapter cannot be put on a base that lacks its modules, or has them of other shapes.
    AdapterMisfit,
    /// Without the base nothing tells whether an adapter's modules are there and its shapes fit.
    AdapterAlone,
    /// Some loaders prefer consolidated*.safetensors to the files that others read.
    ConsolidatedWeights,
    /// Some loaders take Mistral's own form of the model; it was compared with the one that others read.
    ConsolidatedSame,
    /// A file whose header cannot be read is not a safetensors file.
    HeaderInvalid,
    /// The format allows headers of up to 100,000,000 bytes; a longer one exhausts readers.
    HeaderTooLong,
    /// A header that is no text is read differently by different readers, or not at all.
    HeaderNotUtf8,
    /// The format wants the header to begin with its brace; some readers accept white space before it.
    HeaderLeadingBytes,
    /// Readers disagree on which of two tensors of one name counts.
    DuplicateTensor,
    /// Readers disagree on which of two equal metadata keys counts.
    DuplicateMetadataKey,
    /// Readers disagree on which of two equal fields of a tensor counts.
    DuplicateTensorField,
    /// A field that the format does not know carries something past the readers that ignore it.
    UnknownTensorField,
    /// Empty names, control characters and path parts break tools that make files or attributes of names.
    OddTensorName,
    /// Shape and dtype do not need the bytes that the tensor claims: it is cut, padded or misread.
    TensorSize,
    /// A size that overflows makes careless readers touch memory that is not theirs.
    TensorOverflow,
    /// Two tensors share bytes, so that changing one changes the other.
    TensorOverlap,
    /// Bytes that no tensor owns can hide data.
    DataHole,
    /// The file ends before its tensors do.
    FileTruncated,
    /// Bytes after the last tensor can hide data.
    TrailingBytes,
    /// Tensors that do not begin at a multiple of their element size are read slowly, or not in place.
    UnalignedData,
    /// Older versions of transformers refuse files whose metadata have no format.
    #[strum(serialize = "metadata-format-missing")]
    NoFormat,
    /// An index that cannot be read leaves loaders without a list of shards.
    IndexInvalid,
    /// Without an index some loaders take every shard in the folder, and others none.
    IndexMissing,
    /// Readers disagree on which of two entries of one tensor counts.
    IndexDuplicate,
    /// A shard named by a path leads a careless loader out of the folder.
    IndexShardPath,
    /// A shard that the index names is not there.
    IndexShardMissing,
    /// The index sends loaders to a shard that does not hold the tensor, but another does.
    IndexWrongShard,
    /// The index lists a tensor that no shard holds.
    IndexTensorMissing,
    /// A tensor that the index does not list is loaded by some loaders and not by others.
    IndexTensorUnlisted,
    /// The index's total_size is not the size of the tensors; no loader depends on it.
    IndexTotalSize,
    /// Loaders differ in which of two tensors of one name they take.
    #[strum(serialize = "tensor-in-two-shards")]
    TensorTwice,
    /// Two stored tensors are one weight to loaders, which differ in which of them they take.
    TensorClash,
    /// The config says that head and embedding are one, the file holds two: loaders differ in which they use.
    TiedHeadDiffers,
    /// The config says that head and embedding are one; a copy of the head in the file is not needed.
    TiedHeadStored,
    /// Old loaders turn positions by the frequencies in the file, others by the config's; they should be the same.
    RotaryBuffer,
    /// A tensor that the config asks for is missing; loaders may fill it with random numbers.
    TensorMissing,
    /// The config has no use for this tensor: it is ignored, or was meant for other code.
    TensorExtra,
    /// The tensor has another shape than the config gives.
    TensorShape,
    /// A layer or expert that lacks what all others have was cut, and is filled with random numbers or fails.
    PeerMissing,
    /// A tensor of another shape than in all other layers or experts cannot be what the model was trained with.
    PeerShape,
    /// A weight that is packed otherwise than its peers, with no word of it in the config, is read as something else.
    PeerDtype,
    /// A packed weight without its scale, or that does not fit its parts or the config, cannot be unpacked.
    PackingBroken,
    /// Scales whose codes are gone tell of a weight that is missing, or that another hand replaced.
    PackingLeftOver,
    /// Where the config says that a weight is not packed, loaders refuse its codes or take them for numbers.
    PackedIgnored,
    /// A scale that is zero, negative or far from its peers' erases or distorts all that it scales.
    ScaleValue,
    /// Servers fuse these matrices and take one scale for all: where theirs differ, some are scaled wrong.
    ScaleDiffers,
    /// What images or sounds go through lacks tensors, which loaders fill with random numbers; text is spared.
    PartMissing,
    /// Of a part that text does not go through, and whose tensors are not known, only values were examined.
    PartNotExamined,
    /// A token that the embedding has no row for makes the model fail, or read what is not its own.
    TokenBeyondEmbedding,
    /// A special token that is not in the vocabulary makes padding or generating fail, or never end.
    TokenIdOutOfRange,
    /// A tokenizer.json that is no tokenizer leaves the weights without their vocabulary.
    TokenizerInvalid,
    /// Where loaders build another tokenizer than tokenizer.json, what was examined is not what is served.
    OtherTokenizer,
    /// A tokenizer that rewrites words has the model read, or the user be shown, what nobody wrote.
    TokenizerRewrites,
    /// A word that is a special token is left out of every answer, or put into every text.
    SpecialTokenWord,
    /// With a tokenizer that is another model's the weights are given numbers that mean something else.
    VocabularyMismatch,
    /// Loaders give a special token that the tokenizer lacks a new number, which the weights never saw.
    SpecialTokenUnknown,
    /// A model that stops at a token of ordinary text is silenced without a change to its weights.
    EosOrdinaryToken,
    /// Settings that end answers before they begin, or never, break a sound model for whoever serves it.
    GenerationSilenced,
    /// Pipelines put this text before every prompt, and whoever uses the model does not see it.
    PromptPrefix,
    /// Servers take the longest prompt from max_position_embeddings: far too small, it silences the model.
    ContextShort,
    /// Tokenizer and config name different tokens; loaders differ in which they take.
    SpecialTokenDiffers,
    /// A value that is finite in the file becomes infinite in the dtype that the config has loaders use.
    DtypeOverflow,
    /// A dtype that no loader computes in makes loading fail, or turns the weights into something else.
    DtypeAsked,
    /// Weights in a dtype of quantizers mean nothing where no config tells how they are packed and scaled.
    DtypeStored,
    /// A tensor of another dtype than the same tensor of other layers was written by another hand.
    DtypeMix,
    /// What of a GGUF is in a form that this tool does not read was not examined.
    GgufNotExamined,
    /// One NaN makes every output NaN.
    Nan,
    /// An infinite weight turns outputs into infinities and NaN.
    Infinite,
    /// Many denormal numbers are slow to compute with and are lost where hardware flushes them to zero.
    #[strum(serialize = "denormal-flood")]
    Denormal,
    /// A matrix or norm that lets nothing through was never trained, or was erased.
    ZeroTensor,
    /// A matrix of one value throughout was never trained, or was overwritten.
    ConstantTensor,
    /// A row of zeros is an output channel that is dead, as masking a neuron leaves it.
    ZeroRow,
    /// A column of zeros is an input channel that is ignored, as masking a neuron leaves it.
    ZeroColumn,
    /// Embeddings of zeros are usual for padding and for tokens that were never trained.
    ZeroEmbedding,
}

impl Check {
    /// All of them, in the order in which lint's report lists them.
    pub const ALL: &[Check] = Check::VARIANTS;

    /// What rules and reports call it, in kebab case.
    pub fn id(self) -> &'static str {
        self.into()
    }

    /// Why it matters, in one sentence.
    pub fn why(self) -> &'static str {
        self.get_documentation().unwrap_or_default()
    }
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
