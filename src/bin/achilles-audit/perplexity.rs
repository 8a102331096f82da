//! `perplexity`.

use crate::options::{Format, ModelArgs, OutputArgs, TextArgs};
use crate::output;
use achilles_audit::compute::Row;
use achilles_audit::error::Figure;
use achilles_audit::evaluate::metrics;
use achilles_audit::locate::Subject;
use achilles_audit::neuron::{self, Action, Intervention, Neuron};
use achilles_audit::progress::Progress;
use achilles_audit::tool::Tool;
use achilles_audit::{Error, Result, report};
use serde_json::json;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Options {
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

pub fn run(options: &Options, progress: &dyn Progress) -> Result<ExitCode> {
    output::check(&options.output)?;
    let action = match options.beta {
        None => Action::Zero,
        Some(beta) if beta.is_finite() => Action::Scale(beta),
        Some(beta) => return Err(Error::input(format!("beta is {beta}, expected a finite number"))),
    };
    neuron::check_distinct(&options.neuron)?;
    let Subject { model, text, .. } = options.model.open(&options.text, progress)?;
    let tokens = &text.ids;
    let mut rows = vec![Row::clean(tokens.clone())];
    if !options.neuron.is_empty() {
        let intervention = |neuron: &_| Intervention { neuron: Clone::clone(neuron), action };
        rows.push(Row::with(tokens.clone(), options.neuron.iter().map(intervention).collect()));
    }
    progress.begin("perplexity", (rows.len() * (model.recipe().layers.len() + 1)) as u64, "rows × layers");
    let nlls = metrics::nlls(&model, &rows, progress)?;
    progress.end();
    let base = metrics::base(nlls[0], || metrics::not_finite(&model))?;
    if nlls.get(1).is_some_and(|nll| !nll.is_finite()) {
        let (dtype, beta) = (options.model.compute.dtype.as_str(), options.beta.unwrap_or(0.0));
        let problem =
            format!("with the neurons × {beta} the perplexity is not a number: the arithmetic overflows {dtype}");
        return Err(Error::input(format!("{problem}; use another factor or a wider --dtype")));
    }
    let changed = nlls.get(1).map(|nll| (*nll, metrics::damage(*nll, base)));
    let rendered = match options.output.format {
        Format::Json => report::json::document(&json!({
            "schema": "achilles-audit/perplexity/v1",
            "tool": Tool::this(),
            "model": {"source": model.checkpoint().name(), "architecture": model.recipe().architecture,
                "config_sha256": model.checkpoint().config().sha256(), "hub": model.checkpoint().origin()},
            "settings": {"dtype": options.model.compute.dtype.as_str(), "device": model.device_name(), "tokens": tokens.len(),
                "text_sha256": text.sha256,
                "neurons": options.neuron, "beta": options.beta.unwrap_or(0.0)},
            "base": {"nll_nats": base, "perplexity": metrics::perplexity(base)},
            "changed": changed.map(|(nll, damage)| json!({"nll_nats": nll, "perplexity": metrics::perplexity(nll),
                "damage": damage})),
        }))?,
        Format::Table => {
            let perplexity = |nll| Figure(metrics::perplexity(nll));
            let mut out = format!("perplexity {:.4} ({base:.6} nats a token)\n", perplexity(base));
            if let Some((nll, damage)) = changed {
                let perplexity = perplexity(nll);
                out += &format!("changed    {perplexity:.4} ({nll:.6} nats a token), damage {damage:.4}\n");
            }
            out
        }
    };
    output::write(&options.output, &rendered)?;
    Ok(ExitCode::SUCCESS)
}
