//! Norms that a serving process dumped: JSON Lines, one object a prompt, site and position.

use super::baseline::Baseline;
use super::profile::Observed;
use super::reading::Reading;
use crate::error::{Count, Error, Result};
use crate::files::open_regular;
use crate::neuron::Site;
use serde::Deserialize;
use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// No line is longer, in bytes.
const LONGEST_LINE: u64 = 1 << 16;

/// A line. Without norms it has values that are not finite.
#[derive(Deserialize)]
struct Line {
    prompt: u64,
    site: Site,
    position: usize,
    l2: Option<f64>,
    max_abs: Option<f64>,
    channel: Option<usize>,
    #[serde(default)]
    nan: u64,
    #[serde(default)]
    inf: u64,
}

/// Reads a dump. Lines of sites that the baseline does not have are left out, with a warning.
///
/// # Errors
/// It cannot be read, a line is malformed or contradicts the baseline or itself, or none is of the baseline's sites.
pub fn read(path: &Path, baseline: &Baseline) -> Result<Observed> {
    let places: HashMap<&Site, usize> = baseline.sites.iter().enumerate().map(|(at, s)| (&s.site, at)).collect();
    let mut observed = Observed::new(baseline.sites.iter().map(|s| (s.site.clone(), s.channels)));
    let mut unknown = HashSet::new();
    let mut reader = BufReader::new(open_regular(path)?);
    let mut bytes = Vec::new();
    for number in 1u64.. {
        bytes.clear();
        let read = (&mut reader).take(LONGEST_LINE + 1).read_until(b'\n', &mut bytes).map_err(Error::io(path))?;
        let bad = |problem: String| Error::file(path, format!("line {number}: {problem}"));
        if read == 0 {
            break;
        }
        if read as u64 > LONGEST_LINE {
            return Err(bad(format!("is longer than {LONGEST_LINE} bytes")));
        }
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(&bytes).map_err(|e| {
            bad(format!(
                "expected {{\"prompt\":…,\"site\":…,\"position\":…,\"l2\":…,\"max_abs\":…,\"channel\":…}}: {e}"
            ))
        })?;
        match places.get(&line.site) {
            Some(&at) => {
                let reading = line.reading(baseline.sites[at].channels).map_err(bad)?;
                observed.add(line.prompt, at, line.position, &reading);
            }
            None => {
                unknown.insert(line.site);
            }
        }
    }
    if observed.prompts.is_empty() {
        let example = &baseline.sites[0].site;
        return Err(Error::file(path, format!("has no line of a site of the baseline, such as {example}")));
    }
    if let Some(one) = unknown.iter().min() {
        let sites = Count(unknown.len(), "site is", "sites are");
        tracing::warn!("{}: {sites} not in the baseline and left out, such as {one}", path.display());
    }
    Ok(observed.finish())
}

impl Line {
    fn reading(&self, channels: usize) -> std::result::Result<Reading, String> {
        let (nan, inf) = (self.nan, self.inf);
        if nan > 0 || inf > 0 {
            return Ok(Reading { l2: 0.0, max_abs: 0.0, channel: 0, nan, inf });
        }
        let (Some(l2), Some(max_abs), Some(channel)) = (self.l2, self.max_abs, self.channel) else {
            return Err("expected l2, max_abs and channel, or a count of nan or inf above 0".into());
        };
        if channel >= channels {
            return Err(format!("channel is {channel}, and {} has {channels}", self.site));
        }
        let norm = |name, value: f64| match value >= 0.0 && value.is_finite() {
            true => Ok(value),
            false => Err(format!("{name} is {value}, expected a number from 0 on")),
        };
        Ok(Reading { l2: norm("l2", l2)?, max_abs: norm("max_abs", max_abs)?, channel, nan, inf })
    }
}
