//! Processes that make a share of each batch: together they make the batches of one.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::sync::Arc;

use ocl_data::{
    BadImage, Batch, BlockMasks, Findings, Keep, Loader, LoaderConfig, Order, TrainView, View,
};

use support::{folder, train};

fn blocks() -> View {
    let View::Train(view) = train(8) else { unreachable!() };
    View::Train(TrainView {
        keep: Keep::Blocks(BlockMasks {
            targets: 4,
            target_scale: [0.15, 0.2],
            target_ratio: [0.75, 1.5],
            context_scale: [0.85, 1.0],
            min_keep: 1,
        }),
        ..view
    })
}

#[test]
fn shares_are_the_whole_batch_with_its_bad_images() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 60, &[3, 17, 18, 41]);
    let whole =
        LoaderConfig { batch: 20, epochs: 0..2, max_bad_share: 0.2, ..LoaderConfig::default() };
    for view in [train(8), blocks()] {
        let mut loader = Loader::start(Arc::clone(&source), view, whole.clone()).unwrap();
        let expected: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
        for shares in [vec![0..7, 7..20], vec![0..7, 7..8, 8..20]] {
            let mut parts: Vec<Loader> = shares
                .iter()
                .map(|share| {
                    let config = LoaderConfig { share: Some(share.clone()), ..whole.clone() };
                    Loader::start(Arc::clone(&source), view, config).unwrap()
                })
                .collect();
            for expected in &expected {
                let batches: Vec<Batch> =
                    parts.iter_mut().map(|part| part.next().unwrap().unwrap()).collect();
                let samples: Vec<u64> =
                    batches.iter().flat_map(|batch| batch.samples.clone()).collect();
                assert_eq!(samples, expected.samples);
                let patches = batches.iter().flat_map(|batch| &batch.patches);
                assert!(patches.eq(&expected.patches));
                let positions = batches.iter().flat_map(|batch| &batch.positions);
                assert!(positions.eq(&expected.positions));
                for (batch, share) in batches.into_iter().zip(&shares) {
                    assert!(batch.blocks.is_none(), "they are the whole batch's");
                    let batch = view.with_blocks_among(batch, whole.seed, &samples, share.start);
                    let blocks = expected.blocks.as_ref();
                    assert_eq!(batch.blocks, blocks.map(|blocks| blocks.of_images(share.clone())));
                }
                let mut met = Findings::default();
                parts.iter_mut().for_each(|part| met.extend(part.take_findings()));
                parts.iter_mut().for_each(|part| part.note(&met).unwrap());
            }
            assert!(parts.iter_mut().all(|part| part.next().is_none()));
            assert!(parts.iter().all(|part| part.skipped() == loader.skipped()));
        }
        assert_eq!(loader.skipped(), 4);
    }
}

#[test]
fn shares_of_a_sequential_run_leave_the_same_images_out() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(dir.path(), 25, &[3, 17, 23]);
    let whole = LoaderConfig {
        batch: 6,
        order: Order::Sequential,
        max_bad_share: 0.2,
        ..LoaderConfig::default()
    };
    let mut loader = Loader::start(Arc::clone(&source), train(8), whole.clone()).unwrap();
    let expected: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
    // The last batch has one image, which the first share takes.
    for shares in [vec![0..3, 3..6], vec![0..1, 1..4, 4..6]] {
        let mut parts: Vec<Loader> = shares
            .into_iter()
            .map(|share| {
                let config = LoaderConfig { share: Some(share), ..whole.clone() };
                Loader::start(Arc::clone(&source), train(8), config).unwrap()
            })
            .collect();
        for expected in &expected {
            let batches: Vec<Batch> =
                parts.iter_mut().map(|part| part.next().unwrap().unwrap()).collect();
            assert!(batches.iter().flat_map(|batch| &batch.samples).eq(&expected.samples));
            assert!(batches.iter().flat_map(|batch| &batch.patches).eq(&expected.patches));
        }
        assert!(parts.iter_mut().all(|part| part.next().is_none()));
    }
}

#[test]
fn too_many_in_all_shares_together_are_too_many() {
    let dir = tempfile::tempdir().unwrap();
    // More than the few that are allowed whatever the share.
    let numbers: [u32; 12] = [3, 17, 18, 41, 5, 8, 22, 27, 33, 46, 52, 58];
    let source = folder(dir.path(), 60, &numbers);
    let config = LoaderConfig { batch: 60, share: Some(0..30), ..LoaderConfig::default() };
    let mut loader = Loader::start(source, train(8), config).unwrap();
    loader.next().unwrap().unwrap();
    loader.take_findings();
    let bad = |sample| BadImage { sample, name: "a.png".into(), reason: "empty".into() };
    let all =
        Findings { tried: 72, bad: numbers.iter().map(|&number| bad(u64::from(number))).collect() };
    let error = loader.note(&all).unwrap_err().to_string();
    assert!(error.contains("12 of the 60 images"), "{error}");
}
