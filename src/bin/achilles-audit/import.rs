//! `import`.

use crate::stderr;
use achilles_audit::Result;
use achilles_audit::checkpoint::gguf::ImportDtype;
use achilles_audit::checkpoint::gguf::import;
use achilles_audit::error::Bytes;
use achilles_audit::progress::Progress;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The GGUF file
    pub gguf: PathBuf,
    /// The folder to write; it must not exist yet, or be empty
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// Dtype of the weights written: bf16, f16 or f32
    #[arg(long, alias = "dtype", default_value = "bf16")]
    pub weights_dtype: ImportDtype,
}

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    let summary = import(&options.gguf, &options.output, options.weights_dtype, progress)?;
    let (folder, size) = (options.output.display(), Bytes(summary.bytes));
    stderr::line(&format!("{folder}: {} tensors, {size}", summary.tensors));
    Ok(ExitCode::SUCCESS)
}
