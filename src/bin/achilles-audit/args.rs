//! What can be typed. Types only: what it means is each subcommand's business.

use achilles_audit::checkpoint::gguf::ImportDtype;
use achilles_audit::compute::{Arithmetic, DeviceChoice};
use achilles_audit::locate::{Counting, Ranking, SiteSelection};
use achilles_audit::monitor::{DEFAULT_ALPHA, DEFAULT_MAX_TOKENS};
use achilles_audit::neuron::{Neuron, Side};
use achilles_audit::probe::DEFAULT_MAX_NEW_TOKENS;
use clap::{ArgGroup, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::path::PathBuf;

/// Finds the handful of neurons a language model cannot do without, and audits checkpoints before release.
///
/// MODEL is a model folder, a .gguf file, or a hub id (org/name[@revision]).
/// Exit code: 0 done and clean, 1 findings, 2 could not do the job.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Args {
    /// How long waits are shown on standard error
    #[arg(long, global = true, value_enum, default_value = "auto")]
    pub progress: ProgressChoice,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressChoice {
    /// Bars where standard error is a terminal, else nothing
    Auto,
    /// One JSON object a line
    Json,
    /// Nothing
    None,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Audit a checkpoint before release: may it ship? Files, critical set, base model, activations, fingerprint and
    /// signature, judged by rules
    #[command(after_help = "\
Exit code: 0 nothing speaks against it; 1 a finding does (by the rules: from a warning on); 2 nothing that was examined
does, but not everything that should was, or the job could not be done. The form of the report makes no difference.")]
    Scan(Scan),
    /// List the rules that scan judges by, or print the form of rule files
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Tell what a rule is about
    Explain(Explain),
    /// Find the critical set: noise importance, causal masking, minimization
    Locate(Locate),
    /// Tell whether variants of a model share its critical set: where it is, and what masking it does
    ///
    /// BASE is a model, what `locate --format json` wrote of one (a .json file), or published:NAME.
    Compare(Compare),
    /// List the critical sets that the paper's authors published
    Published(OutputArgs),
    /// Perplexity of a text, as the model is or with neurons masked or scaled
    Perplexity(Perplexity),
    /// Ask questions before and after neurons are masked: the answers, and the probability of their first token
    Probe(Probe),
    /// Record how large activations usually are, and tell when they no longer are
    Monitor {
        #[command(subcommand)]
        command: Monitor,
    },
    /// Examine a checkpoint's files without running it: format, index, config, values, code
    ///
    /// Exit code 1 where a finding is a warning or an error; notes do not count.
    Lint(Lint),
    /// Convert a GGUF file to a Hugging Face model folder
    Import(Import),
    /// Bake a mask or a scaling of neurons into a checkpoint's weights, with a receipt
    Patch(Patch),
    /// Undo a patch by its receipt, bit for bit
    ///
    /// The edited ranges, and size and header of the files that hold them, have to be as the receipt says; with
    /// `patch --digests` so has every other byte of these files. Where they are not, nothing is changed.
    Unpatch(Unpatch),
    /// Write down what a checkpoint is: digests of its files, tensors, rows and columns
    Fingerprint(Fingerprint),
    /// Hold a checkpoint against its fingerprint: exit code 1 and what differs, down to the neuron, if it is not intact
    Verify(Verify),
    /// Say in what two checkpoints differ, down to the neuron; exit code 1 where they do
    Diff(Diff),
    /// Sign a checkpoint's files (OpenSSF Model Signing) with a key or a certificate
    Sign(Sign),
    /// Verify a checkpoint's signature (OpenSSF Model Signing)
    ///
    /// Exit code: 0 verified; 1 not verified, with every reason listed; 2 could not tell (a file cannot be read, is no
    /// signature, or is one of a kind that is not verified here).
    VerifySignature(VerifySignature),
    /// Keep the weights of a critical set in a small file, to repair the checkpoint with later
    Vault(Vault),
    /// Put the weights that a vault keeps back where they were changed, bit for bit
    ///
    /// Needs no receipt, and finds the tensors by name however they are sharded. Where that leaves nothing of a patch,
    /// its receipt is removed. Exit code 1: the kept parts are sound, but the same tensors were changed elsewhere.
    Restore(Restore),
    /// Print what makes a shell complete this command line
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages, one for each command
    Man {
        /// The folder to write them to
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
    },
}

/// Which model, and how it computes.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// A model folder, a .gguf file, or a hub id (org/name[@revision])
    pub model: String,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

/// How a model computes.
#[derive(Debug, clap::Args)]
pub struct ComputeArgs {
    /// Precision of the arithmetic: f32, f64, f16 or bf16
    #[arg(long, default_value = "f32")]
    pub dtype: Arithmetic,
    /// Where to compute: auto, cpu, cuda:N or metal
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Keep no weights between passes: slower, for models larger than memory
    #[arg(long)]
    pub stream: bool,
}

/// Which text.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct TextArgs {
    /// The text to compute on [default: the paper's reference text]
    #[arg(long)]
    pub text: Option<String>,
    /// A file that holds the text
    #[arg(long, value_name = "FILE")]
    pub text_file: Option<PathBuf>,
}

/// Where the result goes.
#[derive(Debug, clap::Args)]
pub struct OutputArgs {
    /// Form of the result
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// Write the result to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, clap::Args)]
pub struct Locate {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub search: SearchArgs,
}

#[derive(Debug, clap::Args)]
pub struct Compare {
    /// The model that the variants were made from: a model, a critical set (.json), or published:NAME
    pub base: String,
    /// Model folders, .gguf files or hub ids
    #[arg(required = true, value_name = "VARIANT")]
    pub variants: Vec<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    /// The rules whose thresholds the verdicts take: default, release, or a file
    #[arg(long, value_name = "FILE", default_value = "default")]
    pub rules: String,
}

/// How to look for the critical set.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// What candidates are ranked by: noise (the paper) or magnitude (much faster)
    #[arg(long, default_value = "noise")]
    pub ranking: Ranking,
    /// Which side of modules to look at: out or in
    #[arg(long, default_value = "out")]
    pub side: Side,
    /// Which modules: reference (as the published code), linear, down_proj, or a glob over module paths
    #[arg(long, default_value = "reference")]
    pub sites: SiteSelection,
    /// What a prefix counts: channels, or published (a channel once a position)
    #[arg(long, default_value = "channels")]
    pub counting: Counting,
    /// α: standard deviation of the noise on embeddings
    #[arg(long, default_value_t = 5.0, allow_hyphen_values = true)]
    pub alpha: f64,
    /// K: noisy samples
    #[arg(long, short = 'k', default_value_t = 100)]
    pub samples: usize,
    /// Which noise
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// ε: damage (log10 of the perplexity ratio) from which the model has collapsed
    #[arg(long, default_value_t = 1.0, allow_hyphen_values = true)]
    pub epsilon: f64,
    /// Longest prefix of the ranking that is tried
    #[arg(long, default_value_t = 200)]
    pub max_neurons: usize,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("trusted").args(["key", "cert_roots"]))]
pub struct Scan {
    #[command(flatten)]
    pub model: ModelArgs,
    /// The rules to judge by: default, release, or a file
    #[arg(long, value_name = "FILE", default_value = "default")]
    pub rules: String,
    /// Do not run the model: look at its files only
    #[arg(long = "static", conflicts_with_all = ["base", "baseline", "cache"])]
    pub no_run: bool,
    /// Compare with the model that this one was made from: a model, what `locate --format json` wrote of one (a .json
    /// file), or published:NAME
    #[arg(long, value_name = "MODEL")]
    pub base: Option<String>,
    /// Hold its activations against this baseline (see monitor record)
    #[arg(long, value_name = "FILE", requires = "prompts")]
    pub baseline: Option<PathBuf>,
    /// The prompts for that, other ones than were recorded, one a line; in a .jsonl file one {"text": …} a line
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "baseline")]
    pub prompts: Vec<PathBuf>,
    /// Keep what running the model gives in the user's cache, and take it from there while no byte and no setting that
    /// it depends on has changed: all bytes are digested for that. What lies in the cache is believed
    #[arg(long)]
    pub cache: bool,
    /// Hold the checkpoint against this fingerprint
    #[arg(long, value_name = "FILE")]
    pub fingerprint: Option<PathBuf>,
    /// Verify its signature [FILE: MODEL/model.sig, or MODEL.sig beside a single file]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, requires = "trusted")]
    pub signature: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub trust: ScanTrustArgs,
    /// Form of the report
    #[arg(long, value_enum, default_value = "table")]
    pub format: ScanFormat,
    /// Write the report to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub search: SearchArgs,
}

/// Whose signature is accepted.
#[derive(Debug, clap::Args)]
pub struct ScanTrustArgs {
    /// Accept a signature by this public key, in PEM
    #[arg(long, value_name = "FILE", requires = "signature")]
    pub key: Option<PathBuf>,
    /// Accept one by a certificate that leads to one of these self-signed ones, in PEM, and is valid now. Revocation
    /// and transparency logs are not checked, and the time of the signature is not known
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "signature", conflicts_with = "key")]
    pub cert_roots: Vec<PathBuf>,
    /// Of these, accept only a signer whose certificate has this subject (such as CN=release,O=Example), or this email
    /// address, URI or DNS name among its alternative names
    #[arg(long, value_name = "NAME", requires = "cert_roots")]
    pub identity: Option<String>,
    /// Accept files that are not signed
    #[arg(long, requires = "signature")]
    pub ignore_unsigned_files: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScanFormat {
    /// For people
    Table,
    /// For programs
    Json,
    /// For code scanning (SARIF 2.1.0)
    Sarif,
    /// For build servers (JUnit XML)
    Junit,
    /// For people, with charts: one page that stands alone
    Html,
}

#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// List all rules
    List {
        /// Which rules: default, release, or a file
        #[arg(long, value_name = "FILE", default_value = "default")]
        rules: String,
    },
    /// Print the JSON Schema of rule files
    Schema,
}

#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The rule's id, such as zero-row
    pub rule: String,
    /// Which rules: default, release, or a file
    #[arg(long, value_name = "FILE", default_value = "default")]
    pub rules: String,
}

#[derive(Debug, clap::Args)]
pub struct Perplexity {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    /// A neuron to mask, such as L11.mlp.down_proj:out:507; can be given several times
    #[arg(long, value_name = "ID")]
    pub neuron: Vec<Neuron>,
    /// Multiply the neurons by this instead of masking them
    #[arg(long, requires = "neuron", allow_hyphen_values = true)]
    pub beta: Option<f64>,
}

#[derive(Debug, clap::Args)]
pub struct Probe {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub neurons: NeuronArgs,
    /// Prompts, one a line; in a .jsonl file one {"prompt": …, "answer": …} a line, where the answer is optional
    /// [default: five questions in the manner of the paper's]
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_NEW_TOKENS)]
    pub max_new_tokens: usize,
    /// Give the prompts as they are, where the checkpoint has a chat template
    #[arg(long)]
    pub no_chat_template: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Subcommand)]
pub enum Monitor {
    /// Write down the distribution of norms at every site over many prompts
    ///
    /// Sites are the outputs of modules and of every RMSNorm; norms are the L2 norm and max |x| of a position, with the
    /// channel that holds it. Every other prompt makes the profile, the others calibrate the alarm.
    Record(MonitorRecord),
    /// Hold a model, or norms that a serving process dumped, against a baseline: exit code 1 where they are not like it
    ///
    /// On prompts like those of the baseline a model like the baseline's alarms with probability --alpha or less.
    Check(MonitorCheck),
}

#[derive(Debug, clap::Args)]
pub struct MonitorRecord {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Prompts, one a line; in a .jsonl file one {"text": …} a line. Some 200 make a good baseline
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub text: Vec<PathBuf>,
    /// The baseline to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Which modules beside the RMSNorms: reference (as the published code), linear, down_proj, or a glob over module
    /// paths
    #[arg(long, default_value = "reference")]
    pub sites: SiteSelection,
    /// Cut prompts after so many tokens; a check cuts its own likewise
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    pub max_tokens: usize,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("what").args(["text", "activations"]).required(true))]
pub struct MonitorCheck {
    /// A model folder, a .gguf file, or a hub id (org/name[@revision])
    #[arg(required_unless_present = "activations", requires = "text")]
    pub model: Option<String>,
    /// What `monitor record` wrote
    #[arg(long, value_name = "FILE")]
    pub baseline: PathBuf,
    /// Prompts of the same kind as the baseline's, but none of them: one a line; in a .jsonl file one {"text": …} a
    /// line
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub text: Vec<PathBuf>,
    /// Norms that a serving process dumped, as contrib/ records them, instead of a model
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "dtype", "device", "stream"])]
    pub activations: Option<PathBuf>,
    /// The probability of a false alarm
    #[arg(long, default_value_t = DEFAULT_ALPHA, allow_hyphen_values = true)]
    pub alpha: f64,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct Lint {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct Import {
    /// The GGUF file
    pub gguf: PathBuf,
    /// The folder to write; it must not exist yet, or be empty
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Dtype of the weights written: bf16, f16 or f32
    #[arg(long, default_value = "bf16")]
    pub dtype: ImportDtype,
}

#[derive(Debug, clap::Args)]
#[command(override_usage = "\
    achilles-audit patch MODEL <--critical FILE|--neuron ID> <-o DIR|--in-place|--dry-run> ...\n       \
    achilles-audit patch --verify DIR --original MODEL")]
#[command(group = ArgGroup::new("which neurons").args(["critical", "neuron", "verify"]).required(true))]
#[command(group = ArgGroup::new("where to").args(["output", "in_place", "dry_run", "verify"]).required(true).multiple(true))]
pub struct Patch {
    /// A model folder or a hub id (org/name[@revision])
    #[arg(required_unless_present = "verify")]
    pub model: Option<String>,
    /// The folder to write; it must not exist yet, or be empty
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Edit the model folder itself; the original bytes are kept beside the receipt
    #[arg(long, conflicts_with = "output")]
    pub in_place: bool,
    /// A critical-set.json: its critical neurons are patched
    #[arg(long, value_name = "FILE")]
    pub critical: Option<PathBuf>,
    /// A neuron to patch, such as L11.mlp.down_proj:out:507; can be given several times
    #[arg(long, value_name = "ID")]
    pub neuron: Vec<Neuron>,
    /// Multiply the neurons by this; 0 masks them
    #[arg(long, default_value_t = 0.0, allow_hyphen_values = true)]
    pub beta: f64,
    /// Set the neurons to their mean over the text instead; their modules need a bias
    #[arg(long, conflicts_with = "beta")]
    pub mean: bool,
    #[command(flatten)]
    pub text: TextArgs,
    /// Print the plan and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Form of the plan
    #[arg(long, value_enum, default_value = "table")]
    pub format: Format,
    /// Hard-link the shards that do not change, instead of copying them. Shards that change are copied, which takes no
    /// time where the file system can share blocks
    #[arg(long, requires = "output")]
    pub link: bool,
    /// Put the SHA-256 of whole files that change into the receipt, beside those of their headers and of each changed
    /// range: slow, as all of their bytes are read. `unpatch` then checks them too
    #[arg(long)]
    pub digests: bool,
    /// Prove that this patched folder differs from --original only as its receipt says; exit code 1 where it does not
    #[arg(long, value_name = "DIR", requires = "original", conflicts_with_all = ["model", "output", "in_place", "dry_run"])]
    pub verify: Option<PathBuf>,
    /// What --verify compares with
    #[arg(long, value_name = "MODEL", requires = "verify")]
    pub original: Option<String>,
}

impl Patch {
    /// How the model is run where means are asked for.
    pub fn model_args(&self, model: &str) -> ModelArgs {
        let (dtype, device) = (Arithmetic::F32, DeviceChoice::Auto);
        ModelArgs { model: model.into(), compute: ComputeArgs { dtype, device, stream: false } }
    }
}

#[derive(Debug, clap::Args)]
pub struct Unpatch {
    /// The patched folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Fingerprint {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    /// Write the fingerprint to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Leave out files whose path below the folder matches this glob (.git and .cache/huggingface always are); can be
    /// given several times
    #[arg(long, value_name = "GLOB")]
    pub ignore: Vec<String>,
    /// Tensors whose rows get SHA-256 digests of their own, by a glob over names; can be given several times
    #[arg(long, value_name = "GLOB", default_value = "*down_proj*")]
    pub row_digests: Vec<String>,
    /// Take what is known of files whose size, times and inode are as when they were last read: who can set the clock,
    /// or runs the network's file system that they lie in, can hide a change. What lies in the cache is believed
    #[arg(long)]
    pub cache: bool,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    /// Its fingerprint
    pub fingerprint: PathBuf,
    /// Pass a checkpoint whose tensors are the same but lie in other weight files
    #[arg(long)]
    pub allow_resharding: bool,
    /// Take what is known of files whose size, times and inode are as when they were last read: who can set the clock,
    /// or runs the network's file system that they lie in, can hide a change. What lies in the cache is believed
    #[arg(long)]
    pub cache: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct Diff {
    /// A model folder or a hub id: what was before
    #[arg(value_name = "A")]
    pub before: String,
    /// A model folder or a hub id: what is now
    #[arg(value_name = "B")]
    pub after: String,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, clap::Args)]
pub struct Sign {
    /// A folder or a file
    pub model: PathBuf,
    /// The private key, in PEM: ECDSA on P-256, P-384 or P-521, not encrypted
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The key's certificate, in PEM: the signature is then verified with the root it leads to
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// The certificates between that one and its root, in PEM
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "cert")]
    pub chain: Vec<PathBuf>,
    /// The signature to write [default: MODEL/model.sig, or MODEL.sig beside a single file]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Sign the files that symbolic links lead to; else a link is an error
    #[arg(long)]
    pub allow_symlinks: bool,
    /// Sign pieces of so many bytes instead of whole files
    #[arg(long, value_name = "BYTES")]
    pub shard_size: Option<u64>,
    /// Leave out this file or folder of the model (.git, .gitattributes, .github, .gitignore and .cache/huggingface
    /// always are); the signature says so, and no weights can be left out; can be given several times
    #[arg(long, value_name = "PATH")]
    pub ignore: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("trusted").args(["key", "cert_roots"]).required(true))]
pub struct VerifySignature {
    /// A folder or a file
    pub model: PathBuf,
    /// The signature [default: MODEL/model.sig, or MODEL.sig beside a single file]
    #[arg(long, value_name = "FILE")]
    pub signature: Option<PathBuf>,
    #[command(flatten)]
    pub trust: TrustArgs,
    /// Accept files that are not signed
    #[arg(long)]
    pub ignore_unsigned_files: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// Whose signature is accepted.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct TrustArgs {
    /// Accept a signature by this public key, in PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Accept one by a certificate that is valid now and leads to one of these self-signed ones, in PEM. Revocation and
    /// transparency logs are not checked, and the time of the signature is not known
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub cert_roots: Vec<PathBuf>,
    /// Of these, accept only a signer whose certificate has this subject (such as CN=release,O=Example), or this email
    /// address, URI or DNS name among its alternative names
    #[arg(long, value_name = "NAME", conflicts_with = "key", requires = "cert_roots")]
    pub identity: Option<String>,
}

/// Which neurons.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct NeuronArgs {
    /// A critical-set.json, as `locate --format json` writes it: its critical neurons
    #[arg(long, value_name = "FILE")]
    pub critical: Option<PathBuf>,
    /// A neuron, such as L11.mlp.down_proj:out:507; can be given several times
    #[arg(long, value_name = "ID")]
    pub neuron: Vec<Neuron>,
}

impl NeuronArgs {
    /// The neurons, from where they are named, in a model of `architecture`.
    pub fn read(&self, architecture: &str) -> achilles_audit::Result<Vec<Neuron>> {
        match &self.critical {
            Some(path) => achilles_audit::patch::critical_neurons(path, architecture),
            None => Ok(self.neuron.clone()),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct Vault {
    /// A model folder or a hub id (org/name[@revision])
    pub model: String,
    #[command(flatten)]
    pub neurons: NeuronArgs,
    /// The vault to write, such as vault.safetensors; it must not exist yet, nor lie in a model folder
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Restore {
    /// The model folder to repair
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// What `achilles-audit vault` wrote
    #[arg(long, value_name = "FILE")]
    pub vault: PathBuf,
    /// Say what would be restored and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restore also where the tensors differ from the vault's in more than the kept parts, as another model's would
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub output: OutputArgs,
}
