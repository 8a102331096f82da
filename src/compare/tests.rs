use super::*;

fn masked(damage: f64, controls: &[f64]) -> Masked {
    Masked { neurons: Vec::new(), damage, controls: controls.to_vec() }
}

fn location(ranks: &[Option<usize>], shared: usize) -> Location {
    let placed = |rank: &Option<usize>| Placed {
        neuron: "L1.mlp.down_proj:out:3".parse().unwrap(),
        base_rank: 1,
        rank: *rank,
        importance_ratio: None,
    };
    let overlap = vec![Overlap { k: 1, shared: 0 }, Overlap { k: 100, shared }];
    Location { neurons: ranks.iter().map(placed).collect(), overlap, spearman: None }
}

#[test]
fn verdicts_by_transfer_then_place_then_ranking() {
    let limits = Limits { damage: 1.0, rank: 100.0, set_share: 0.5, ranking_share: 0.2 };
    let (near, far, none) = (Some(100), Some(101), None);
    let rows = [
        (masked(1.0, &[0.0, 0.99]), location(&[far], 0), SetVerdict::Shared),
        // What a random set does as well is no effect of this one.
        (masked(1.0, &[0.0, 1.0]), location(&[far], 0), SetVerdict::Unrelated),
        (masked(f64::INFINITY, &[0.1]), location(&[none], 0), SetVerdict::Shared),
        (masked(0.99, &[0.0]), location(&[near], 0), SetVerdict::SharedLocationOnly),
        (masked(0.99, &[0.0]), location(&[near, far], 0), SetVerdict::SharedLocationOnly),
        (masked(0.99, &[0.0]), location(&[near, far, none], 20), SetVerdict::Moved),
        (masked(0.0, &[0.0]), location(&[far], 19), SetVerdict::Unrelated),
        (masked(-0.5, &[0.0]), location(&[], 0), SetVerdict::Unrelated),
    ];
    for (at, (masked, location, expected)) in rows.iter().enumerate() {
        assert_eq!(verdict(masked, location, &limits), *expected, "row {at}");
    }
}

#[test]
fn spearman_is_scipys() {
    // scipy.stats.spearmanr([1, …, 6], ranks); those that are lacking as the mean of the last ranks.
    let rows: [(&[Option<usize>], f64); 4] = [
        (&[Some(1), Some(2), Some(7), Some(9)], 1.0),
        (&[Some(9), Some(7), Some(2), Some(1)], -1.0),
        (&[Some(3), Some(1), Some(200), Some(2), Some(40), Some(60)], 0.428_571_428_571_428_55),
        (&[Some(3), None, Some(1), None, Some(2), Some(60)], -0.028_988_551_782_622_423),
    ];
    for (ranks, expected) in rows {
        let rho = spearman(ranks).unwrap();
        assert!((rho - expected).abs() < 1e-12, "{ranks:?}: {rho}");
    }
    assert_eq!(spearman(&[Some(1), Some(2)]), None);
    assert_eq!(spearman(&[None, None, None]), None);
}

#[test]
fn bases_are_told_apart_by_their_names() {
    let of = BaseName::of;
    assert_eq!(of("published:gemma-2b"), BaseName::Published("gemma-2b".into()));
    assert_eq!(of("a/base.json"), BaseName::CriticalSet("a/base.json".into()));
    assert_eq!(of("org/name@main"), BaseName::Model("org/name@main".into()));
}

#[test]
fn a_published_set_may_be_known_in_part() {
    let partial = |name: &str| {
        let base = Unsearched::open(&BaseName::Published(name.into()), "", &crate::progress::Silent).unwrap();
        let searched = base.search(&Default::default(), &Default::default(), &crate::progress::Silent);
        searched.unwrap().identity.partial
    };
    assert_eq!(partial("phi-3-mini-4k-instruct").unwrap(), "the first 10 of its 13 entries are published");
    assert_eq!(partial("gemma-7b"), None);
}
