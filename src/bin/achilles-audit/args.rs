//! What can be typed. Types only: what it means is each subcommand's business.

use achilles_audit::checkpoint::gguf::ImportDtype;
use achilles_audit::locate::{Counting, Ranking, SiteSelection};
use achilles_audit::model::{Arithmetic, DeviceChoice};
use achilles_audit::neuron::{Neuron, Side};
use clap::{Parser, Subcommand, ValueEnum};
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
    /// Audit a checkpoint: find its critical set and show it
    Scan(Locate),
    /// Find the critical set: noise importance, causal masking, minimization
    Locate(Locate),
    /// Perplexity of a text, as the model is or with neurons masked or scaled
    Perplexity(Perplexity),
    /// Examine a checkpoint's files without running it: format, index, config, values, code
    ///
    /// Exit code 1 where a finding is a warning or an error; notes do not count.
    Lint(Lint),
    /// Convert a GGUF file to a Hugging Face model folder
    Import(Import),
    /// Bake a mask or a scaling of neurons into a checkpoint's weights, with a receipt
    Patch(Patch),
    /// Undo a patch by its receipt, bit for bit
    Unpatch(Unpatch),
}

/// Which model, and how it computes.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// A model folder, a .gguf file, or a hub id (org/name[@revision])
    pub model: String,
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
    #[arg(long, default_value_t = 5.0, allow_negative_numbers = true)]
    pub alpha: f64,
    /// K: noisy samples
    #[arg(long, short = 'k', default_value_t = 100)]
    pub samples: usize,
    /// Which noise
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// ε: damage (log10 of the perplexity ratio) from which the model has collapsed
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    pub epsilon: f64,
    /// Longest prefix of the ranking that is tried
    #[arg(long, default_value_t = 200)]
    pub max_neurons: usize,
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
    #[arg(long, requires = "neuron", allow_negative_numbers = true)]
    pub beta: Option<f64>,
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
pub struct Patch {
    /// A model folder or a hub id (org/name[@revision])
    #[arg(required_unless_present = "verify")]
    pub model: Option<String>,
    /// The folder to write; it must not exist yet, or be empty
    #[arg(short, long, value_name = "DIR", required_unless_present_any = ["in_place", "dry_run", "verify"])]
    pub output: Option<PathBuf>,
    /// Edit the model folder itself; the original bytes are kept beside the receipt
    #[arg(long, conflicts_with = "output")]
    pub in_place: bool,
    /// A critical-set.json: its critical neurons are patched
    #[arg(long, value_name = "FILE", required_unless_present_any = ["neuron", "verify"], conflicts_with = "neuron")]
    pub critical: Option<PathBuf>,
    /// A neuron to patch, such as L11.mlp.down_proj:out:507; can be given several times
    #[arg(long, value_name = "ID")]
    pub neuron: Vec<Neuron>,
    /// Multiply the neurons by this; 0 masks them
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    pub beta: f64,
    /// Set the neurons to their mean over the text instead; their modules need a bias
    #[arg(long, conflicts_with = "beta")]
    pub mean: bool,
    #[command(flatten)]
    pub text: TextArgs,
    /// Print the plan and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Hard-link the shards that do not change
    #[arg(long, requires = "output")]
    pub link: bool,
    /// Leave the SHA-256 of whole files out of the receipt: faster, as large files are not read
    #[arg(long)]
    pub no_digests: bool,
    /// Prove that this patched folder differs from --original only as its receipt says; exit code 1 where it does not
    #[arg(long, value_name = "DIR", requires = "original", conflicts_with_all = ["model", "output", "in_place"])]
    pub verify: Option<PathBuf>,
    /// What --verify compares with
    #[arg(long, value_name = "MODEL", requires = "verify")]
    pub original: Option<String>,
}

impl Patch {
    /// How the model is run where means are asked for.
    pub fn model_args(&self, model: &str) -> ModelArgs {
        let (dtype, device) = (Arithmetic::F32, DeviceChoice::Auto);
        ModelArgs { model: model.into(), dtype, device, stream: false }
    }
}

#[derive(Debug, clap::Args)]
pub struct Unpatch {
    /// The patched folder
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}
