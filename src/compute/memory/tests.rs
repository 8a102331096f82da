use super::*;
use crate::compute::fixture::opened;

fn recipe() -> Recipe {
    opened("llama").1
}

/// Of a gigabyte of weights, in twenty thousand layers.
fn footprint(available: u64, residency: Option<Residency>) -> Footprint {
    let mut recipe = recipe();
    recipe.layers = vec![recipe.layers[0].clone(); 20_000];
    let settings = ComputeSettings { residency, ..ComputeSettings::default() };
    Footprint::within(available, Room::Host, &recipe, &settings)
}

/// Counted by hand from the config: 3 layers of 40 channels, 4 query and 2 key heads of 10, 56 channels of MLP, a
/// vocabulary of 97.
#[test]
fn weights_are_counted() {
    let recipe = recipe();
    let (hidden, mlp, queries, keys) = (40, 56, 40, 20);
    let layer = 2 * hidden + hidden * (2 * queries + 2 * keys) + 3 * hidden * mlp;
    assert_eq!((recipe.layers.len(), recipe.hidden_size, recipe.vocab_size), (3, hidden as usize, 97));
    assert_eq!(weights_of(&recipe, DType::F32), (4 * (3 * layer + 97 * hidden), 4 * 2 * (layer + hidden * mlp)));
    assert_eq!(weights_of(&recipe, DType::BF16).0 * 2, weights_of(&recipe, DType::F32).0);
}

#[test]
fn weights_stay_where_they_take_three_quarters() {
    let needed = footprint(0, None).beside_rows(Residency::Resident);
    let enough = needed.div_ceil(3) * 4;
    assert_eq!(footprint(enough, None).residency, Residency::Resident);
    assert_eq!(footprint(enough - 4, None).residency, Residency::Streamed);
    for asked in [Residency::Resident, Residency::Streamed] {
        assert_eq!(footprint(enough, Some(asked)).residency, asked);
        assert_eq!(footprint(0, Some(asked)).residency, asked);
    }
}

/// What is read as it comes needs room of its own, which is more than all weights of a tiny model.
#[test]
fn weights_that_take_less_than_streaming_stay() {
    let footprint = Footprint::within(0, Room::Host, &recipe(), &ComputeSettings::default());
    assert_eq!(footprint.residency, Residency::Resident);
    assert!(!footprint.check().unwrap_err().to_string().contains("--weights"));
}

#[test]
fn weights_that_do_not_fit_are_refused_by_what_they_need() {
    let [resident, streamed] =
        [Residency::Resident, Residency::Streamed].map(|residency| footprint(0, None).beside_rows(residency));
    let refusal = |available, residency| footprint(available, residency).check().map_err(|e| e.to_string());
    assert_eq!(refusal(resident, Some(Residency::Resident)), Ok(()));
    assert_eq!(refusal(streamed, Some(Residency::Streamed)), Ok(()));
    let problem = refusal(streamed, Some(Residency::Resident)).unwrap_err();
    assert!(resident > streamed && problem.contains("--weights stream"), "{problem}");
    assert!(problem.contains(&format!("about {} of memory, but {}", Bytes(resident), Bytes(streamed))), "{problem}");
    for residency in [None, Some(Residency::Streamed)] {
        let problem = refusal(streamed - 1, residency).unwrap_err();
        assert!(problem.contains("layer by layer") && problem.contains(&Bytes(streamed).to_string()), "{problem}");
        assert!(problem.contains("--memory") && !problem.contains("--weights"), "{problem}");
    }
}

/// Memory that was freed and not given back would be counted as taken.
#[test]
fn what_a_budget_leaves_is_known_from_the_beginning() {
    let settings = ComputeSettings { memory: Some(Bytes(4 << 30)), ..ComputeSettings::default() };
    let footprint = Footprint::within(1 << 30, Room::Host, &recipe(), &settings);
    assert_eq!(footprint.memory().for_rows(), footprint.left());
    assert!(footprint.left() > 512 << 20);
}

#[test]
fn rows_follow_from_what_is_left() {
    let recipe = recipe();
    let (row, group) = (row_bytes(&recipe, 100, DType::F32), group_bytes(&recipe, 100, DType::F32));
    assert_eq!(row, 100 * 40 * 4);
    let with = |left: u64| {
        let Footprint { resident, .. } = footprint(0, None);
        let footprint = footprint(resident + LOGITS + left, Some(Residency::Resident));
        assert_eq!(footprint.left(), left);
        footprint
    };
    // Half for a chunk, the other for rows that wait; a chunk is never more than its usual size.
    let tight = with(20 * group);
    assert_eq!(tight.chunk_rows(&recipe, 100), 10);
    assert_eq!(tight.rows_at_once(&recipe, 100) as u64, 10 * group / row);
    assert_eq!(with(1 << 40).chunk_rows(&recipe, 100) as u64, CHUNK_BYTES / group);
    assert_eq!((with(0).chunk_rows(&recipe, 100), with(0).rows_at_once(&recipe, 100)), (1, 1));
    let fits = tight.rows_at_once(&recipe, 100);
    tight.check_rows(&recipe, fits, 100).unwrap();
    let problem = tight.check_rows(&recipe, fits + 1, 100).unwrap_err().to_string();
    assert!(
        problem.contains(&format!("computing {} rows of 100 tokens beside the weights needs about", fits + 1)),
        "{problem}"
    );
    assert!(tight.check_rows(&recipe, usize::MAX, 100).is_err());
}

/// Streamed weights take theirs away while they pass; the driver judges rows on a device that says nothing.
#[test]
fn what_passes_is_not_left_for_rows() {
    let streamed = footprint(1 << 30, Some(Residency::Streamed));
    assert_eq!(streamed.left(), (1 << 30) - LOGITS - 2 * BLOCK_BYTES as u64);
    let settings = ComputeSettings::default();
    let on_device = Footprint::within(0, Room::Driver, &recipe(), &settings);
    assert_eq!((on_device.residency, on_device.left()), (Residency::Resident, u64::MAX));
    on_device.check().unwrap();
}

#[test]
fn a_budget_counts_what_was_taken_before() {
    let budget = own_bytes() + (256 << 20);
    let left = available_bytes(Some(Bytes(budget)));
    assert!(own_bytes() > 0 && left <= 512 << 20 && left > 0, "{left}");
    assert_eq!(available_bytes(Some(Bytes(0))), 0);
    assert!(available_bytes(None) > left);
}

/// Of a gigabyte of weights, on a card.
fn on_card(available: u64, residency: Option<Residency>) -> (Footprint, Recipe) {
    let mut recipe = recipe();
    recipe.layers = vec![recipe.layers[0].clone(); 20_000];
    let settings = ComputeSettings { residency, ..ComputeSettings::default() };
    (Footprint::within(available, Room::Card, &recipe, &settings), recipe)
}

#[test]
fn a_card_gives_what_is_free_but_a_reserve_and_no_more_than_the_budget() {
    let gib = |count: u64| count << 30;
    assert_eq!(of_card(gib(80), None), gib(79));
    assert_eq!(of_card(gib(80), Some(Bytes(gib(20)))), gib(20));
    assert_eq!(of_card(gib(8), Some(Bytes(gib(20)))), gib(7));
    assert_eq!(of_card(1, None), 0);
}

#[test]
fn weights_stay_on_a_card_where_they_take_nine_tenths() {
    let needed = on_card(0, None).0.beside_rows(Residency::Resident);
    let enough = needed.div_ceil(9) * 10;
    assert_eq!(on_card(enough, None).0.residency, Residency::Resident);
    assert_eq!(on_card(enough - 10, None).0.residency, Residency::Streamed);
}

#[test]
fn rows_on_a_card_follow_from_what_is_left_there() {
    let (empty, recipe) = on_card(0, None);
    let (row, group) = (row_bytes(&recipe, 100, DType::F32), group_bytes(&recipe, 100, DType::F32));
    let with = |left: u64| on_card(empty.resident + LOGITS + left, Some(Residency::Resident)).0;
    let tight = with(80 * group);
    assert_eq!(tight.memory().for_rows(), 80 * group);
    assert_eq!(tight.memory().for_sums(), 40 * group);
    // An eighth for a chunk, the rest for rows that wait.
    assert_eq!(tight.chunk_rows(&recipe, 100), 10);
    assert_eq!(tight.rows_at_once(&recipe, 100) as u64, 70 * group / row);
    assert_eq!(with(1 << 40).chunk_rows(&recipe, 100) as u64, CARD_CHUNK_BYTES / group);
}

#[test]
fn what_a_card_has_no_room_for_is_refused_in_its_words() {
    let problem = on_card(0, Some(Residency::Streamed)).0.check().unwrap_err().to_string();
    assert!(
        problem.starts_with("computing on the GPU with this model's weights in f32 read layer by layer"),
        "{problem}"
    );
    assert!(problem.contains("--gpu-memory") && !problem.contains(" --memory"), "{problem}");
    let (tight, recipe) = on_card(2 << 30, Some(Residency::Resident));
    let problem = tight.check_rows(&recipe, usize::MAX, 100).unwrap_err().to_string();
    assert!(problem.contains("beside the weights on the GPU") && problem.contains("by --gpu-memory"), "{problem}");
}

#[test]
fn a_budget_of_a_card_is_refused_where_there_is_none() {
    let settings = ComputeSettings {
        device: crate::compute::DeviceChoice::Cpu,
        gpu_memory: Some(Bytes(1 << 30)),
        ..ComputeSettings::default()
    };
    let problem = Footprint::of(&recipe(), &settings).unwrap_err().to_string();
    assert!(problem.starts_with("--gpu-memory") && problem.contains("on cpu"), "{problem}");
}
