//! `import`.

use crate::args::Import;
use achilles_audit::Result;
use achilles_audit::checkpoint::gguf::import;
use achilles_audit::error::Bytes;
use achilles_audit::progress::Progress;
use std::process::ExitCode;

pub fn run(options: &Import, progress: &dyn Progress) -> Result<ExitCode> {
    let summary = import(&options.gguf, &options.output, options.dtype, progress)?;
    eprintln!("{}: {} tensors, {}", options.output.display(), summary.tensors, Bytes(summary.bytes));
    Ok(ExitCode::SUCCESS)
}
