use super::*;
use crate::locate::search::{members, search};
use crate::locate::{Entry, SearchSettings};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Neurons 0 … n−1, most important first.
fn entries(n: usize) -> Vec<Entry> {
    let neuron = |channel| format!("L0.mlp.down_proj:out:{channel}").parse().unwrap();
    (0..n).map(|c| Entry { neuron: neuron(c), importance: (n - c) as f64, position: Some(0) }).collect()
}

/// The damage of a set of masked channels.
type Damage = fn(&[usize]) -> f64;

fn has(set: &[usize], wanted: &[usize]) -> bool {
    wanted.iter().all(|w| set.contains(w))
}

fn channels(set: &[Neuron]) -> Vec<usize> {
    set.iter().map(|n| n.channel).collect()
}

/// An evaluator over a base NLL of 2 that takes `damage` of the masked channels.
fn evaluator(damage: impl Fn(&[usize]) -> f64 + 'static) -> Evaluator<'static> {
    let nll = move |set: &Vec<Neuron>| match channels(set).as_slice() {
        [] => 2.0,
        masked => 2.0 + std::f64::consts::LN_10 * damage(masked),
    };
    Evaluator::measuring(move |_, sets| Ok(sets.iter().map(&nll).collect()))
}

fn minimal(n: usize, damage: impl Fn(&[usize]) -> f64 + 'static) -> CriticalSet {
    minimize(&mut evaluator(damage), members(&entries(n), n), 1.0, None).unwrap()
}

#[test]
fn what_is_needed_stays() {
    let cases: [(&str, Damage, &[usize]); 5] = [
        ("one alone", |s| if has(s, &[3]) { 4.0 } else { 0.1 }, &[3]),
        ("three together", |s| if has(s, &[1, 4, 6]) { 1.5 } else { 0.1 }, &[1, 4, 6]),
        ("everything", |s| s.len() as f64 / 8.0, &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("the larger of two ways", |s| 2.0 * f64::from(has(s, &[5])) + f64::from(has(s, &[0])), &[5]),
        ("overflow is collapse", |s| if has(s, &[2, 7]) { f64::NAN } else { 0.0 }, &[2, 7]),
    ];
    for (name, damage, expected) in cases {
        let set = minimal(8, damage);
        assert_eq!(channels(&set.neurons), expected, "{name}");
        let subsets = if expected.len() <= MAX_SUBSETS_OF { (1 << expected.len()) - 1 } else { 0 };
        assert_eq!(set.subsets.len(), subsets, "{name}");
        assert!(set.damage > 1.0 - 1e-9, "{name}: {}", set.damage);
    }
}

/// Where a pass pays for several rows, it takes fewer of them to the same set.
#[test]
fn rows_that_are_paid_for_spare_passes() {
    let mut all = [0, 0];
    for seed in 0..40 {
        let run = |paid: usize| {
            let (_, damage) = planted(seed);
            let passes = std::rc::Rc::new(std::cell::Cell::new(0));
            let counted = passes.clone();
            let nll = move |set: &Vec<Neuron>| 2.0 + std::f64::consts::LN_10 * damage(&channels(set));
            let evaluator = Evaluator::measuring(move |_, sets| {
                counted.set(counted.get() + 1);
                Ok(sets.iter().map(&nll).collect())
            });
            let mut evaluator = evaluator.paying(move || paid);
            let set = minimize(&mut evaluator, members(&entries(120), 120), 1.0, None).unwrap();
            (channels(&set.neurons), passes.get())
        };
        let ((one, by_one), (seven, by_seven)) = (run(1), run(7));
        assert_eq!(one, seven, "{seed}");
        all = [all[0] + by_one, all[1] + by_seven];
    }
    println!("{} passes by one, {} by seven", all[0], all[1]);
    assert!(all[1] * 3 < all[0] * 2, "{all:?}");
}

type Planted = Box<dyn Fn(&[usize]) -> f64>;

/// A planted damage function of a random kind.
fn planted(seed: u64) -> (&'static str, Planted) {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut some = |count: usize, below: usize| -> Vec<usize> {
        let mut drawn = Vec::new();
        while drawn.len() < count {
            let one = rng.random_range(0..below);
            drawn.extend(Some(one).filter(|one| !drawn.contains(one)));
        }
        drawn
    };
    let sizes = some(2, 7);
    let (first, second) = (some(2 + sizes[0], 120), some(2 + sizes[1], 120));
    let share = move |set: &[usize], of: &[usize]| {
        of.iter().filter(|member| set.contains(member)).count() as f64 / of.len() as f64
    };
    match seed % 4 {
        0 => ("together", Box::new(move |set| if has(set, &first) { 2.5 } else { 0.1 })),
        1 => {
            let two = move |set: &[usize]| f64::from(has(set, &first)) * 1.5 + f64::from(has(set, &second)) * 1.2;
            ("one of two ways", Box::new(move |set| two(set) + 0.001 * set.len() as f64))
        }
        2 => ("more than their sum", Box::new(move |set| 1.2 * share(set, &first).powi(2) + 0.0005 * set.len() as f64)),
        _ => {
            let noise = move |set: &[usize]| {
                let mut hasher = DefaultHasher::new();
                (seed, set).hash(&mut hasher);
                (hasher.finish() % 1000) as f64 / 10_000.0
            };
            ("with noise", Box::new(move |set| 1.3 * share(set, &first).powi(2) + noise(set)))
        }
    }
}

/// 200 planted sets of 2 to 8 neurons that work together, where the prefix is long: rows that minimization takes (subsets
/// aside), and members that it ends with, beside backward elimination from the whole prefix. Measured: 1 of them larger,
/// with noise; 0.30 to 0.33 of the rows without noise, 0.48 with. docs/locate.md tells of kinds that do worse.
#[test]
fn planted_sets_are_found_in_few_rows() {
    let entries = entries(150);
    let (mut tried, mut larger) = (0, 0);
    // Rows, and those of the reference.
    let mut rows = BTreeMap::<&str, (usize, usize)>::new();
    for seed in 0.. {
        let (kind, damage) = planted(seed);
        let collapses = |set: &[usize]| damage(set) >= 1.0;
        let whole = (1..=150).map(|n| (0..n).collect::<Vec<_>>()).find(|prefix| collapses(prefix));
        let Some(whole) = whole.filter(|whole| whole.len() >= 60) else { continue };
        let prefix = members(&entries, whole.len());
        let curve: Vec<Vec<Neuron>> = (0..=prefix.len()).map(|n| prefix[..n].to_vec()).collect();
        let measured = |reduce: &dyn Fn(&mut Evaluator) -> Vec<usize>| {
            let (_, damage) = planted(seed);
            let mut evaluator = evaluator(damage);
            evaluator.nlls("", &curve).unwrap();
            let before = evaluator.rows();
            let set = reduce(&mut evaluator);
            (set, evaluator.rows() - before)
        };
        let (set, used) = measured(&|evaluator| fewest(evaluator, &prefix, 1.0, None).unwrap().0);
        let eliminate = |evaluator: &mut Evaluator| {
            Reduction::new(evaluator, &prefix, 1.0).unwrap().eliminate(&whole).unwrap().unwrap()
        };
        let (reference, needed) = measured(&eliminate);
        assert!(collapses(&set), "{kind} {seed}: {set:?}");
        for drop in &set {
            let rest: Vec<usize> = set.iter().copied().filter(|member| member != drop).collect();
            assert!(!collapses(&rest), "{kind} {seed}: {set:?} without {drop}");
        }
        larger += usize::from(set.len() > reference.len());
        let of_kind = rows.entry(kind).or_default();
        *of_kind = (of_kind.0 + used, of_kind.1 + needed);
        tried += 1;
        if tried == 200 {
            break;
        }
    }
    assert!(larger <= 1, "{larger} of 200 are larger");
    for (kind, (used, needed)) in rows {
        let share = used as f64 / needed as f64;
        assert!(share <= if kind == "with noise" { 0.5 } else { 1.0 / 3.0 }, "{kind}: {used} of {needed} rows");
    }
}

/// Two ways to collapse: the ranking leads to the longer one.
#[test]
fn a_smaller_set_is_looked_for_as_long_as_there_are_rows() {
    let damage = |set: &[usize]| if has(set, &[0, 1, 2, 3, 4, 39]) || has(set, &[20, 39]) { 1.5 } else { 0.1 };
    let prefix = members(&entries(40), 40);
    let look = |rows: usize, seed: u64| {
        let (set, smallest) = fewest(&mut evaluator(damage), &prefix, 1.0, Some(Further { rows, seed })).unwrap();
        let smallest = smallest.unwrap();
        assert!(smallest.rows <= rows && smallest.budget == rows && smallest.before == 6, "{smallest:?}");
        assert_eq!(smallest.found, set.len() < 6);
        (set, smallest)
    };
    for rows in 1..60 {
        let (set, _) = look(rows, 42);
        assert!(set == [0, 1, 2, 3, 4, 39] || set == [20, 39], "{rows}: {set:?}");
    }
    let (set, smallest) = look(500, 42);
    assert_eq!((set, smallest.all_needed), (vec![20, 39], false));
    assert!(smallest.orders > 0 && look(500, 42).1 == smallest, "{smallest:?}");
    assert!((0..20).any(|seed| look(500, seed).1 != smallest));
    // Of one way alone nothing is left to look for.
    let one = |set: &[usize]| if has(set, &[7, 39]) { 1.5 } else { 0.1 };
    let further = Some(Further { rows: 500, seed: 42 });
    let (_, smallest) = fewest(&mut evaluator(one), &prefix, 1.0, further).unwrap();
    let expected = Smallest { budget: 500, rows: 0, orders: 0, before: 2, found: false, all_needed: true };
    assert_eq!(smallest, Some(expected));
}

proptest! {
    /// Whatever the damage of sets is, monotone or not: no single member can go.
    #[test]
    fn no_member_can_go(n in 1usize..9, seed: u64, share in 0u64..100) {
        let damage = move |masked: &[usize]| {
            let mut hasher = DefaultHasher::new();
            (seed, masked).hash(&mut hasher);
            if masked.len() == n || hasher.finish() % 100 < share { 1.5 } else { 0.5 }
        };
        let set = channels(&minimal(n, damage).neurons);
        prop_assert!(damage(&set) >= 1.0);
        for drop in &set {
            let rest: Vec<usize> = set.iter().copied().filter(|c| c != drop).collect();
            prop_assert!(rest.is_empty() || damage(&rest) < 1.0, "{set:?} without {drop}");
        }
    }
}

#[test]
fn the_first_prefix_that_collapses_is_found_on_a_curve_that_is_not_monotone() {
    let curve = |damages: &'static [f64]| move |masked: &[usize]| damages[masked.len() - 1];
    let cases: [(&[f64], usize, bool); 4] = [
        (&[1.2, 0.0, 0.0], 1, true),
        (&[0.1, 0.9, 0.2, 1.3, 0.4, 2.0], 4, true),
        (&[0.1, 0.9, 0.2, 0.999, 0.4, 0.0], 6, false),
        (&[0.1, 0.9, f64::INFINITY, 0.0], 3, true),
    ];
    for (damages, n, collapsed) in cases {
        let entries = entries(damages.len());
        let found = search(&mut evaluator(curve(damages)), &entries, &SearchSettings::default(), &String::new).unwrap();
        assert_eq!((found.n, found.collapsed, found.curve_nll_nats.len()), (n, collapsed, n), "{damages:?}");
    }
    let settings = SearchSettings { max_neurons: 3, ..SearchSettings::default() };
    let cut = search(&mut evaluator(curve(&[0.1, 0.1, 0.1, 2.0])), &entries(4), &settings, &String::new).unwrap();
    assert_eq!((cut.n, cut.collapsed), (3, false));
}

#[test]
fn a_channel_that_is_listed_at_two_positions_is_masked_once() {
    let mut listed = entries(3);
    listed.insert(1, Entry { position: Some(7), ..listed[0].clone() });
    assert_eq!(channels(&members(&listed, 3)), [0, 1]);
    let found =
        search(&mut evaluator(|m| m.len() as f64 - 1.0), &listed, &SearchSettings::default(), &String::new).unwrap();
    assert_eq!((found.n, found.curve_nll_nats[0] == found.curve_nll_nats[1]), (3, true));
}
