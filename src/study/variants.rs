//! One critical set, masked in several models (the paper's Table 10).

use super::context::measure;
use super::outcome::{Chart, Outcome, Table, row};
use super::{Context, Measured, Study, Use};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::evaluate::metrics;
use crate::evaluate::text::Tokenizer;
use crate::locate::OpenedSubject;
use crate::neuron::Intervention;

pub(super) const STUDY: Study = Study {
    name: "variants",
    paper: "Table 10",
    about: "Perplexity of the model and of its kin, before and after the model's critical set is masked in each",
    uses: &[Use::Critical, Use::Variants, Use::Corpora],
    run,
};

fn run(context: &Context) -> Result<Outcome> {
    let set: Vec<Intervention> = context.set()?.iter().cloned().map(Intervention::zero).collect();
    let sets = [Vec::new(), set.clone()];
    let mut table = Table::new(
        "variants",
        "Before and after the set of the first is masked",
        &["model", "corpus", "perplexity", "perplexity, masked", "damage"],
    );
    let mut collapsed = 0;
    let mut add = |name: &str, measured: Vec<Measured>| {
        let damage = metrics::damage(measured[0].nlls[1], measured[0].nlls[0]);
        for Measured { corpus, nlls } in measured {
            let [clean, masked] = [nlls[0], nlls[1]].map(metrics::perplexity);
            table.rows.push(row![name, corpus, clean, masked, metrics::damage(nlls[1], nlls[0])]);
        }
        damage >= context.search.epsilon
    };
    add(context.model().checkpoint().name(), context.perplexities(&sets)?);
    for name in &context.options.variants {
        let opened = OpenedSubject::new(Checkpoint::open(name, context.progress)?, &context.options.text)?;
        let (own, other) = (context.model().recipe().architecture, opened.recipe.architecture);
        if own != other {
            let advice = format!("expected {own}, as the model's: the set's neurons are other things there");
            return Err(Error::input(format!("variant {name} is a {other}; {advice}")));
        }
        let tokenizer = Tokenizer::of(&opened.checkpoint)?;
        let corpora = context.options.encoded(&opened.checkpoint, &tokenizer)?;
        let variant = opened.load(context.compute, context.progress)?;
        set.iter().try_for_each(|masked| variant.model.check(&masked.neuron))?;
        let measured = measure(&variant.model, (&variant.text, &corpora), &sets, None, context.progress)?;
        collapsed += usize::from(add(name, measured));
    }
    let variants = context.options.variants.len();
    let findings = vec![format!(
        "The model's set collapses {collapsed} of {variants} variants as well; in the paper it collapses all of the kin that \
         it was tried on."
    )];
    let chart = Chart::lines("variants", "Perplexity with the set masked", &table, "model", "perplexity, masked");
    Ok(Outcome { tables: vec![table], charts: vec![chart.by("corpus").bars().log_y()], findings })
}
