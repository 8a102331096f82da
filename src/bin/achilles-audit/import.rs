//! `import`.

use crate::args::Import;
use crate::stderr;
use achilles_audit::Result;
use achilles_audit::checkpoint::gguf::import;
use achilles_audit::error::Bytes;
use achilles_audit::progress::Progress;
use std::process::ExitCode;

pub fn run(options: &Import, progress: &dyn Progress) -> Result<ExitCode> {
    let summary = import(&options.gguf, &options.output, options.dtype, progress)?;
    let (folder, size) = (options.output.display(), Bytes(summary.bytes));
    stderr::line(&format!("{folder}: {} tensors, {size}", summary.tensors));
    Ok(ExitCode::SUCCESS)
}
