//! `fingerprint`.

use crate::args::Fingerprint;
use crate::{output, stderr};
use achilles_audit::checkpoint::{Folder, Source, hex};
use achilles_audit::error::Bytes;
use achilles_audit::integrity::fingerprint::{self, Cache, Settings};
use achilles_audit::progress::Progress;
use achilles_audit::{Error, Result, escape, files, report};
use std::process::ExitCode;
use std::time::Instant;

pub fn run(options: &Fingerprint, progress: &dyn Progress) -> Result<ExitCode> {
    options.output.as_deref().map_or(Ok(()), files::check_writable)?;
    let Folder { path: root, origin } = Source::find(&options.model)?.folder(progress)?;
    let settings =
        Settings { ignore: options.ignore.clone(), row_digests: options.row_digests.clone(), ..Settings::default() };
    let cache = options.cache.then(Cache::of_user).transpose()?;
    let started = Instant::now();
    let taken = fingerprint::take(&root, &settings, options.output.as_deref(), cache.as_ref(), progress)?;
    if let Some((path, problem)) = taken.problems.iter().chain(&taken.damaged).next() {
        let more = match taken.problems.len() + taken.damaged.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more such files)"),
        };
        return Err(Error::file(root.join(path), format!("{problem}{more}; leave it out with --ignore, or mend it")));
    }
    let found = taken.fingerprint;
    let text = found.to_json(&options.model, origin.as_ref())?;
    match &options.output {
        Some(path) => files::write_whole(path, text.as_bytes())?,
        None => output::print(&escape::json(&text))?,
    }
    let bytes: u64 = found.files.iter().map(|f| f.bytes).sum();
    let seconds = started.elapsed().as_secs_f64();
    stderr::line(&format!(
        "{} files, {} tensors, {} in {seconds:.1} s ({}/s); tensors {}",
        found.files.len(),
        found.tensors.len(),
        Bytes(bytes),
        Bytes((bytes as f64 / seconds) as u64),
        hex(&found.tensors_sha256()),
    ));
    for line in report::hub::lines(origin.as_ref(), &output::not_examined([&origin])).lines() {
        stderr::line(line);
    }
    Ok(ExitCode::SUCCESS)
}
