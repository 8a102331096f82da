//! `study`.

use crate::options::{ComputeArgs, Format, SearchArgs, TextArgs};
use crate::output;
use achilles_audit::checkpoint::Checkpoint;
use achilles_audit::compute::Footprint;
use achilles_audit::document::critical_set;
use achilles_audit::evaluate::corpus::{Corpus, Reading, SAMPLE};
use achilles_audit::evaluate::corpus_perplexity::check_memory;
use achilles_audit::evaluate::text::Tokenizer;
use achilles_audit::evaluate::windows::WindowSettings;
use achilles_audit::locate::OpenedSubject;
use achilles_audit::progress::Progress;
use achilles_audit::report::{self, Show};
use achilles_audit::study::{BETAS, Context, Folder, STUDIES, Study, StudyOptions, Use};
use achilles_audit::{Error, Result};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

/// What stands for every study.
const ALL: &str = "all";
/// What prints their names.
const LIST: &str = "list";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// A study's name, all, or list, which prints the names
    pub study: String,
    /// A model folder, a .gguf file, or a hub id (org/name[@revision])
    pub model: Option<String>,
    /// Kin of the model, for the study variants
    pub variants: Vec<String>,
    #[command(flatten)]
    pub compute: ComputeArgs,
    #[command(flatten)]
    pub text: TextArgs,
    #[command(flatten)]
    pub search: SearchArgs,
    /// The critical set, as `locate --format json` wrote it, instead of locating it
    #[arg(long, value_name = "FILE")]
    pub critical: Option<PathBuf>,
    /// What perplexity is measured on besides the text: a file, or sample or kinds, which come with the program; can be
    /// given several times
    #[arg(long, value_name = "CORPUS", default_value = SAMPLE)]
    pub corpus: Vec<String>,
    /// Texts of a corpus that are measured at most
    #[arg(long, value_name = "N", default_value = "8")]
    pub max_samples: NonZeroUsize,
    /// Factors for the study beta
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = BETAS, allow_hyphen_values = true)]
    pub betas: Vec<f64>,
    /// Draws where chance decides: random rankings, random orders
    #[arg(long, value_name = "N", default_value = "5")]
    pub draws: NonZeroUsize,
    /// Form of the result on standard output, where it goes to no folder
    #[arg(long, value_enum, default_value = "table", conflicts_with = "output")]
    pub format: Format,
    /// Write the results to this folder
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

impl Options {
    /// Refuses what would change nothing of a study.
    fn check_used(&self, study: &Study) -> Result<()> {
        if let Some(variant) = self.variants.first().filter(|_| !study.uses(Use::Variants)) {
            return Err(Error::input(format!("study {} is of one model: {variant:?} is one too many", study.name)));
        }
        if self.critical.is_some() && !study.uses(Use::Critical) {
            let message = format!("study {} masks no given set: leave --critical out", study.name);
            return Err(Error::input(message));
        }
        Ok(())
    }
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    if options.study == LIST {
        output::print(&report::study::list())?;
        return Ok(ExitCode::SUCCESS);
    }
    let studies: Vec<&Study> = match options.study.as_str() {
        ALL => STUDIES.iter().collect(),
        name => vec![Study::find(name)?],
    };
    if let [study] = studies[..] {
        options.check_used(study)?;
    }
    let Some(model) = &options.model else {
        return Err(Error::input(format!("study {} needs a MODEL", options.study)));
    };
    if options.output.is_none() && studies.len() > 1 {
        return Err(Error::input("study all needs a folder for its results: give -o DIR"));
    }
    let folder = options.output.as_deref().map(Folder::open).transpose()?;
    let (search, compute) = (options.search.settings()?, options.compute.settings());
    // The weights come last: a mistake should not have to wait for them.
    let text = options.text.read()?;
    let opened = OpenedSubject::new(Checkpoint::open(model, progress)?, &text)?;
    let critical = options.critical.as_ref().map(|path| critical_set::neurons(path, opened.recipe.architecture));
    let windows = WindowSettings { max_samples: Some(options.max_samples.get()), ..WindowSettings::default() };
    let reading = Reading { enough: windows.enough(), ..Reading::default() };
    let settings = StudyOptions {
        text,
        critical: critical.transpose()?.map(|located| located.neurons),
        betas: options.betas.clone(),
        draws: options.draws.get(),
        variants: options.variants.clone(),
        corpora: options.corpus.iter().map(|name| Corpus::open(name, &reading, progress)).collect::<Result<_>>()?,
        windows,
    };
    settings.check()?;
    let tokenizer = Tokenizer::of(&opened.checkpoint)?;
    let corpora = settings.encoded(&opened.checkpoint, &tokenizer)?;
    check_memory(&Footprint::of(&opened.recipe, &compute)?, &opened.recipe, &corpora)?;
    let subject = opened.load_to_locate((&compute, &search), progress)?;
    let context = Context::new((&subject, &tokenizer), (&compute, &search, &settings), corpora, progress)?;
    match folder {
        None => {
            let document = studies[0].run(&context)?;
            output::print(&options.format.render(&document as &dyn Show)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(folder) => into_folder(&folder, &studies, &context),
    }
}

/// Runs what the folder does not hold yet, and writes its page, also where a run ends early.
fn into_folder(folder: &Folder, studies: &[&Study], context: &Context) -> Result<ExitCode> {
    let (mut left_out, mut failed) = (Vec::new(), false);
    let mut run = |study: &Study| -> Result<()> {
        if folder.holds(study, context)?.is_some() {
            return Ok(());
        }
        let several = studies.len() > 1;
        if let Some(why) = context.lacks(study).filter(|_| several) {
            if folder.result(study, context)?.is_none() {
                left_out.push((study.name.to_owned(), why.to_owned()));
            }
            return Ok(());
        }
        match study.run(context) {
            Ok(document) => folder.write(&report::study::files(&document)?),
            Err(error) if several && !matches!(error, Error::Interrupted | Error::Io { .. }) => {
                failed = true;
                tracing::warn!("study {}: {error}", study.name);
                left_out.push((study.name.to_owned(), error.to_string()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    };
    let ran = studies.iter().try_for_each(|study| run(study));
    let held = folder.all(context)?;
    if !held.is_empty() || ran.is_ok() {
        folder.write(&[("index.html".into(), report::html::study::studies(&held, &left_out))])?;
    }
    ran?;
    let findings = held.iter().flat_map(|document| {
        let study = &document.result.study;
        document.result.outcome.findings.iter().map(move |finding| format!("{study}: {finding}\n"))
    });
    output::print(&findings.collect::<String>())?;
    Ok(ExitCode::from(if failed { 2 } else { 0 }))
}
