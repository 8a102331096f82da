//! Options that several subcommands have, and what they mean.

use achilles_audit::Result;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::{self, Arithmetic, DeviceChoice, Residency};
use achilles_audit::document::critical_set;
use achilles_audit::error::Bytes;
use achilles_audit::evaluate::corpus::{Corpus, Reading, TextFormat};
use achilles_audit::evaluate::text;
use achilles_audit::evaluate::windows::{Protocol, WindowSettings};
use achilles_audit::integrity::signature::{PublicKey, Roots, Trust};
use achilles_audit::locate::{self, Counting, OpenedSubject, Ranking, Samples, SiteSelection};
use achilles_audit::neuron::{Neuron, Side};
use achilles_audit::progress::Progress;
use achilles_audit::report::{RENDERERS, Renderer, Show, ShowFindings};
use achilles_audit::rules::Rules;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgGroup, ValueEnum};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Which model, and how it computes.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// A model folder, a .gguf file, or a hub id (org/name[@revision])
    pub model: String,
    #[command(flatten)]
    pub compute: ComputeArgs,
}

impl ModelArgs {
    /// The model, its weights aside, and the text to compute on.
    pub fn before_loading(&self, text: &TextArgs, progress: &dyn Progress) -> Result<OpenedSubject> {
        let text = text.read()?;
        OpenedSubject::new(Checkpoint::open(&self.model, progress)?, &text)
    }
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
    /// Whether weights stay in memory: resident, stream (read anew in each pass, for models larger than memory), or auto
    /// (resident where they take at most three quarters of it)
    #[arg(long, value_enum, default_value = "auto", hide_possible_values = true)]
    pub weights: Weights,
    /// Memory that this process may take, such as 8GB or 512MiB, mapped files not counted [default: what can be had]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Bytes>,
    /// Memory of the CUDA device that weights and rows may take [default: what is free there, but 1 GiB]
    #[arg(long, value_name = "SIZE")]
    pub gpu_memory: Option<Bytes>,
    /// The old name of `--weights stream`
    #[arg(long, hide = true, conflicts_with = "weights")]
    pub stream: bool,
}

/// Whether weights stay in memory between passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    Resident,
    Stream,
    Auto,
}

impl ComputeArgs {
    pub fn settings(&self) -> compute::ComputeSettings {
        let residency = match self.weights {
            _ if self.stream => Some(Residency::Streamed),
            Weights::Resident => Some(Residency::Resident),
            Weights::Stream => Some(Residency::Streamed),
            Weights::Auto => None,
        };
        compute::ComputeSettings {
            arithmetic: self.dtype,
            device: self.device,
            residency,
            memory: self.memory,
            gpu_memory: self.gpu_memory,
        }
    }
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

impl TextArgs {
    /// The text as it was given, or the paper's.
    pub fn read(&self) -> Result<String> {
        match (&self.text, &self.text_file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(path)) => text::read_file(path),
            (None, None) => Ok(text::REFERENCE_TEXT.to_owned()),
        }
    }
}

/// Which corpora, and how they are measured.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct CorpusArgs {
    /// Measure a corpus of many texts: a file, hf://datasets/ORG/NAME/CONFIG/SPLIT, or sample or kinds, which come with
    /// the program; can be given several times
    #[arg(long, value_name = "FILE")]
    pub corpus: Vec<String>,
    /// How the files hold texts: plain (paragraphs), jsonl ({"text": …} a line), wikitext or parquet [default: by their
    /// names]
    #[arg(long, value_name = "FORMAT", requires = "corpus")]
    pub format_text: Option<TextFormat>,
    /// The column of Parquet, or the key of JSON lines, that holds the texts
    #[arg(long, value_name = "NAME", default_value = "text", requires = "corpus")]
    pub column: String,
    /// How texts are measured: paper (texts of over 50 characters, cut at 512 tokens) or rolling (all tokens, by the
    /// rolling windows of lm-evaluation-harness, a word and a byte too)
    #[arg(long, default_value_t, requires = "corpus")]
    pub protocol: Protocol,
    /// Tokens that the model reads at once at most [default: 512; of rolling the config's max_position_embeddings]
    #[arg(long, value_name = "TOKENS", requires = "corpus")]
    pub context: Option<usize>,
    /// Measure the first so many samples of each corpus
    #[arg(long, value_name = "N", requires = "corpus")]
    pub max_samples: Option<usize>,
}

impl CorpusArgs {
    /// What of each corpus is measured, and how, checked.
    pub fn settings(&self) -> Result<WindowSettings> {
        let CorpusArgs { protocol, context, max_samples, .. } = *self;
        let settings = WindowSettings { protocol, context, max_samples };
        settings.check()?;
        Ok(settings)
    }

    /// How they are read.
    pub fn reading(&self) -> Result<Reading> {
        let (format, column) = (self.format_text, Some(self.column.clone()));
        Ok(Reading { format, column, enough: self.settings()?.enough() })
    }

    /// The corpora.
    pub fn read(&self, progress: &dyn Progress) -> Result<Vec<Corpus>> {
        let reading = self.reading()?;
        self.corpus.iter().map(|name| Corpus::open(name, &reading, progress)).collect()
    }
}

/// How to look for the critical set.
#[derive(Debug, clap::Args)]
pub struct SearchArgs {
    /// Rank by noise (the paper), magnitude (much faster), magnitude-signed (the paper's baseline), gradient,
    /// super-weight, random, or weights (no pass)
    #[arg(long, default_value = "noise")]
    pub ranking: Ranking,
    /// Which side of modules to look at: out or in
    #[arg(long, default_value = "out")]
    pub side: Side,
    /// Which modules: reference (as the published code), linear, down_proj, up_proj, gate_proj, attention, or a glob over
    /// module paths [default: reference; of super-weight and weights down_proj]
    #[arg(long)]
    pub sites: Option<SiteSelection>,
    /// What a prefix counts: channels, or published (a channel once a position)
    #[arg(long, default_value = "channels")]
    pub counting: Counting,
    /// α: standard deviation of the noise on embeddings
    #[arg(long, default_value_t = 5.0, allow_hyphen_values = true)]
    pub alpha: f64,
    /// K: noisy samples; auto draws as many as settle what 100 would give
    #[arg(long, short = 'k', value_name = "K|auto", default_value = "auto")]
    pub samples: Samples,
    /// Which noise, or which random order
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
    /// ε: damage (log10 of the perplexity ratio) from which the model has collapsed
    #[arg(long, default_value_t = 1.0, allow_hyphen_values = true)]
    pub epsilon: f64,
    /// Longest prefix of the ranking that is tried
    #[arg(long, default_value_t = 200)]
    pub max_neurons: usize,
}

impl SearchArgs {
    /// How to search, checked.
    pub fn settings(&self) -> Result<locate::SearchSettings> {
        let settings = locate::SearchSettings {
            ranking: self.ranking,
            side: self.side,
            sites: self.sites.clone().unwrap_or_else(|| self.ranking.usual_sites()),
            counting: self.counting,
            alpha: self.alpha,
            samples: self.samples,
            seed: self.seed,
            epsilon: self.epsilon,
            max_neurons: self.max_neurons,
            smallest: None,
        };
        settings.check()?;
        Ok(settings)
    }
}

/// How `locate` looks for the critical set, and `estimate` tells what that takes.
#[derive(Debug, clap::Args)]
pub struct LocateArgs {
    #[command(flatten)]
    pub search: SearchArgs,
    /// Look on for a smaller critical set, by other orders (from --seed), with at most so many rows: passes of the text
    #[arg(long, value_name = "ROWS", num_args = 0..=1, require_equals = true, default_missing_value = "500")]
    pub smallest: Option<NonZeroUsize>,
}

impl LocateArgs {
    /// How to search, checked.
    pub fn settings(&self) -> Result<locate::SearchSettings> {
        let smallest = self.smallest.map(NonZeroUsize::get);
        Ok(locate::SearchSettings { smallest, ..self.search.settings()? })
    }
}

/// Which neurons, if any; a command that needs some says so by [`NeuronArgs::needed`].
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct NeuronArgs {
    /// A critical-set.json, as `locate --format json` writes it: its critical neurons
    #[arg(long, value_name = "FILE")]
    pub critical: Option<PathBuf>,
    /// A neuron, such as L11.mlp.down_proj:out:507; can be given several times
    #[arg(long, value_name = "ID")]
    pub neuron: Vec<Neuron>,
}

impl NeuronArgs {
    /// The group of options of which a command needs one.
    pub fn needed() -> ArgGroup {
        ArgGroup::new("which neurons").args(["critical", "neuron"]).required(true)
    }

    /// The neurons, from where they are named, in a model of `architecture`.
    pub fn read(&self, architecture: &str) -> Result<critical_set::Located> {
        match &self.critical {
            Some(path) => critical_set::neurons(path, architecture),
            None => Ok(critical_set::Located { neurons: self.neuron.clone(), gradual: false }),
        }
    }
}

/// Which rules judge.
#[derive(Debug, clap::Args)]
pub struct RulesArgs {
    /// The rules: default, release, or a file
    #[arg(long, value_name = "FILE", default_value = Rules::DEFAULT)]
    pub rules: String,
}

impl RulesArgs {
    /// The rules of that name, or of that file.
    pub fn read(&self) -> Result<Rules> {
        Rules::find(&self.rules)
    }
}

/// Whose signature is accepted.
#[derive(Debug, clap::Args)]
#[group(skip)]
pub struct TrustArgs {
    /// Accept a signature by this public key, in PEM
    #[arg(long, alias = "key", value_name = "FILE")]
    pub public_key: Option<PathBuf>,
    /// Accept one by a certificate that is valid now and leads to one of these self-signed ones, in PEM. Revocation and
    /// transparency logs are not checked, and the time of the signature is not known
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub cert_roots: Vec<PathBuf>,
    /// Of these, accept only a signer whose certificate has this subject (such as CN=release,O=Example), or this email
    /// address, URI or DNS name among its alternative names
    #[arg(long, value_name = "NAME", conflicts_with = "public_key", requires = "cert_roots")]
    pub identity: Option<String>,
    /// Accept files that are not signed
    #[arg(long)]
    pub ignore_unsigned_files: bool,
}

impl TrustArgs {
    /// The options of which one is needed.
    pub const ANCHORS: [&str; 2] = ["public_key", "cert_roots"];

    /// The key, or the roots.
    pub fn read(&self) -> Result<Trust> {
        match &self.public_key {
            Some(key) => Ok(Trust::Key(PublicKey::read(key)?)),
            None => Ok(Trust::Roots(Roots::read(&self.cert_roots)?.with_identity(self.identity.clone()))),
        }
    }
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

impl Format {
    /// The document in this form.
    pub fn render(self, document: &dyn Show) -> Result<String> {
        match self {
            Format::Table => Ok(document.table()),
            Format::Json => document.json(),
        }
    }
}

/// Where a report of findings goes.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// Form of the report
    #[arg(long, value_parser = ReportFormat::parser(), default_value = RENDERERS[0].name)]
    pub format: ReportFormat,
    /// Write the report to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// One of the forms that reports have.
#[derive(Debug, Clone, Copy)]
pub struct ReportFormat(&'static Renderer);

impl ReportFormat {
    fn parser() -> impl TypedValueParser<Value = ReportFormat> {
        let values = RENDERERS.iter().map(|form| PossibleValue::new(form.name).help(form.about));
        let find = |name: String| RENDERERS.iter().find(|form| form.name == name).map(ReportFormat);
        PossibleValuesParser::new(values).try_map(move |name| find(name).ok_or("is not one of the forms"))
    }

    /// The findings in this form.
    pub fn render(self, document: &dyn ShowFindings) -> Result<String> {
        (self.0.render)(document)
    }
}
