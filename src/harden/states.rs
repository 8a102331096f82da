//! What is seen of a layer, healthy and lesioned, over texts.

use super::place::Place;
use super::sums::Sums;
use super::texts::{Text, Tokens};
use crate::compute::{Hook, Model, Row};
use crate::error::Result;
use crate::neuron::{Intervention, Neuron, Site};
use crate::progress::Progress;
use candle_core::{DType, Tensor};
use nalgebra::{DMatrix, DVector};

/// Rows that are computed at once at most.
const ROWS: usize = 64;

/// What one text is like at a layer, one row of the batch: (positions, width) each, in f64.
#[derive(Default, Clone)]
struct Seen {
    input: Option<DMatrix<f64>>,
    inner: Option<DMatrix<f64>>,
    after: Option<DMatrix<f64>>,
}

struct Watch<'a> {
    place: &'a Place,
    seen: Vec<Seen>,
}

impl Hook for Watch<'_> {
    fn wants(&self, site: &Site) -> bool {
        [&self.place.input, &self.place.inner, &self.place.after].contains(&site)
    }

    fn on(&mut self, site: &Site, rows: &[Vec<usize>], x: &Tensor) -> Result<Option<Tensor>> {
        for (group, rows) in rows.iter().enumerate() {
            let x = x.get(group)?.to_dtype(DType::F64)?;
            let (positions, width) = x.dims2()?;
            let values = DMatrix::from_row_iterator(positions, width, x.flatten_all()?.to_vec1::<f64>()?);
            for row in rows {
                let seen = &mut self.seen[*row];
                let place = match () {
                    () if *site == self.place.input => &mut seen.input,
                    () if *site == self.place.inner => &mut seen.inner,
                    () => &mut seen.after,
                };
                *place = Some(values.clone());
            }
        }
        Ok(None)
    }
}

/// What a text is like at a layer, as it is and lesioned.
struct Pair<'a> {
    healthy: &'a Seen,
    lesioned: &'a Seen,
}

/// Calls `f` with each text, healthy and lesioned.
fn each(
    model: &Model,
    place: &Place,
    lesion: &[Neuron],
    texts: &[Text],
    progress: &dyn Progress,
    mut f: impl FnMut(Pair<'_>),
) -> Result<()> {
    let masked: Vec<Intervention> = lesion.iter().cloned().map(Intervention::zero).collect();
    let mut at = 0;
    while at < texts.len() {
        let length = texts[at].len();
        let most = (model.rows_at_once(length) / 2).clamp(1, ROWS);
        let alike = texts[at..].iter().take(most).take_while(|text| text.len() == length).count();
        let rows = texts[at..at + alike].iter();
        let rows: Vec<Row> =
            rows.flat_map(|text| [Row::clean(text.clone()), Row::with(text.clone(), masked.clone())]).collect();
        let mut watch = Watch { place, seen: vec![Seen::default(); rows.len()] };
        model.trace(&rows, &mut watch, progress)?;
        for pair in watch.seen.chunks_exact(2) {
            f(Pair { healthy: &pair[0], lesioned: &pair[1] });
        }
        at += alike;
    }
    Ok(())
}

/// States that go into an MLP, and how much its intermediate neurons are used.
pub(super) struct States {
    /// At first positions, healthy.
    pub first: Sums,
    /// At first positions, lesioned.
    pub first_lesioned: Sums,
    /// At other positions, healthy.
    pub rest: Sums,
    /// At other positions, lesioned.
    pub rest_lesioned: Sums,
    /// Σ a² of each intermediate neuron's activation a, healthy.
    pub squares: Vec<f64>,
    /// Over so many positions.
    pub positions: f64,
    /// Tokens that, as the first, lack what the lesion takes. Some do not become a sink in the healthy model either: by
    /// them a spare has to be silent, as by all other positions.
    pub firsts: Vec<Text>,
}

/// A first position.
struct First {
    healthy: DMatrix<f64>,
    lesioned: DMatrix<f64>,
    /// |what lacks in the residual stream after the layer|.
    lacking: f64,
}

impl First {
    fn of(pair: &Pair<'_>) -> Option<First> {
        let (healthy, lesioned) = (pair.healthy.input.clone()?, pair.lesioned.input.clone()?);
        let lacking = (pair.healthy.after.as_ref()? - pair.lesioned.after.as_ref()?).norm();
        Some(First { healthy, lesioned, lacking })
    }
}

/// Collects them over first tokens and texts.
pub(super) fn states(
    model: &Model,
    place: &Place,
    lesion: &[Neuron],
    tokens: &Tokens,
    progress: &dyn Progress,
) -> Result<States> {
    let width = model.recipe().hidden_size;
    let new = || Sums::new(width);
    let mut states = States {
        first: new(),
        first_lesioned: new(),
        rest: new(),
        rest_lesioned: new(),
        squares: vec![0.0; place.neurons],
        positions: 0.0,
        firsts: Vec::new(),
    };
    let mut use_of = |seen: &Seen| {
        if let Some(inner) = &seen.inner {
            states.positions += inner.nrows() as f64;
            states.squares.iter_mut().zip(inner.column_iter()).for_each(|(sum, column)| *sum += column.norm_squared());
        }
    };
    let mut firsts = Vec::new();
    each(model, place, lesion, &tokens.firsts, progress, |pair| {
        use_of(pair.healthy);
        firsts.extend(First::of(&pair));
    })?;
    let mut lacking: Vec<f64> = firsts.iter().map(|first| first.lacking).collect();
    lacking.sort_by(f64::total_cmp);
    let enough = lacking.get(lacking.len() / 2).map_or(0.0, |median| median / 2.0);
    for (first, token) in firsts.iter().zip(&tokens.firsts) {
        let lacks = first.lacking >= enough;
        if lacks {
            states.first.add(&first.healthy);
            states.first_lesioned.add(&first.lesioned);
        } else {
            states.rest.add(&first.healthy);
            states.rest.add(&first.lesioned);
        }
        states.firsts.extend(lacks.then(|| token.clone()));
    }
    let (rest, rest_lesioned) = (&mut states.rest, &mut states.rest_lesioned);
    let after_first = |x: &DMatrix<f64>| x.rows(1, x.nrows().saturating_sub(1)).into_owned();
    each(model, place, lesion, &tokens.texts, progress, |pair| {
        use_of(pair.healthy);
        pair.healthy.input.iter().for_each(|x| rest.add(&after_first(x)));
        pair.lesioned.input.iter().for_each(|x| rest_lesioned.add(&after_first(x)));
    })?;
    Ok(states)
}

/// What spares have to add to the residual stream, and how far they are excited when they have to.
pub(super) struct Lack {
    /// At first positions: the mean of what is lacking.
    pub first: DVector<f64>,
    /// The mean activation of the neuron that is to add it.
    pub sink: f64,
    /// At other positions, by the other neuron's activation a: Σ a · what is lacking.
    pub rest: DVector<f64>,
    /// Σ a².
    pub squares: f64,
    /// Σ |what is lacking|².
    pub rest_squares: f64,
    /// The largest |a| of that neuron in the healthy model, at any position.
    pub healthy: f64,
    /// Σ a, and how many positions that is of.
    pub sum: (f64, f64),
}

impl Lack {
    /// How much of its mean activation the neuron for other positions shows at most in the healthy model: 0 where it is
    /// silent there.
    pub fn leak(&self) -> f64 {
        self.healthy / (self.sum.0 / self.sum.1).abs()
    }
}

/// Measures it of a model whose `neurons` (sink, correction) are fitted and do not add anything yet.
pub(super) fn lack(
    model: &Model,
    place: &Place,
    lesion: &[Neuron],
    (firsts, texts): (&[Text], &[Text]),
    neurons: [usize; 2],
    progress: &dyn Progress,
) -> Result<Lack> {
    let none = || DVector::zeros(model.recipe().hidden_size);
    let mut lack =
        Lack { first: none(), sink: 0.0, rest: none(), squares: 0.0, rest_squares: 0.0, healthy: 0.0, sum: (0.0, 0.0) };
    let [sink, correction] = neurons;
    let lacking = |pair: &Pair<'_>| Some(pair.healthy.after.as_ref()? - pair.lesioned.after.as_ref()?);
    let loudest = |pair: &Pair<'_>| pair.healthy.inner.as_ref().map_or(0.0, |inner| inner.column(correction).amax());
    each(model, place, lesion, firsts, progress, |pair| {
        lack.healthy = lack.healthy.max(loudest(&pair));
        if let (Some(lacking), Some(inner)) = (lacking(&pair), &pair.lesioned.inner) {
            lack.first += lacking.row(0).transpose();
            lack.sink += inner[(0, sink)];
        }
    })?;
    lack.first /= firsts.len() as f64;
    lack.sink /= firsts.len() as f64;
    each(model, place, lesion, texts, progress, |pair| {
        lack.healthy = lack.healthy.max(loudest(&pair));
        if let (Some(lacking), Some(inner)) = (lacking(&pair), &pair.lesioned.inner) {
            for at in 1..lacking.nrows() {
                let activation = inner[(at, correction)];
                lack.rest += lacking.row(at).transpose() * activation;
                lack.squares += activation * activation;
                lack.sum = (lack.sum.0 + activation, lack.sum.1 + 1.0);
                lack.rest_squares += lacking.row(at).norm_squared();
            }
        }
    })?;
    Ok(lack)
}
