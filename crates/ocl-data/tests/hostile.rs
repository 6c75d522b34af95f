//! Damaged and malicious files: never a panic, never unbounded memory, always a name and a reason.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ocl_data::{
    Augment, Crop, Draws, Filter, Geometry, ImageHeader, Keep, Loader, LoaderConfig, Normalisation,
    PackOptions, PartDecoder, Purpose, RgbImage, Source, SourceKind, Split, TrainCrop, TrainView,
    View, pack,
};

/// Alters some bytes, cuts, doubles or drops a piece.
fn mutate(draws: &mut Draws, whole: &[u8]) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..1 + draws.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = draws.below(bytes.len() as u32) as usize;
        let end = (at + 1 + draws.below(40) as usize).min(bytes.len());
        match draws.below(8) {
            0 => bytes.truncate(at),
            1 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            2 => {
                bytes.drain(at..end);
            }
            3 => bytes[at] = 0xFF,
            // Headers are short, and what they say counts most.
            4 => bytes[at % 700.min(end)] = draws.below(256) as u8,
            _ => bytes[at] = draws.below(256) as u8,
        }
    }
    bytes
}

fn fixtures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut paths: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let images = ["jpg", "png", "gif", "bmp", "webp", "tif"];
    paths.retain(|path| images.iter().any(|image| path.extension().unwrap() == *image));
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Ten thousand files; those that lead to a picture lead to one of the size that the header says.
#[test]
fn mutated_images() {
    let (files, mut decoder, mut image) = (fixtures(), PartDecoder::new(), RgbImage::default());
    let (mut read, mut refused) = (0, 0);
    for case in 0..10_000 {
        let mut draws = Draws::new(11, 0, case, Purpose::Test);
        let mut bytes = mutate(&mut draws, &files[case as usize % files.len()]);
        let Ok(header) = ImageHeader::read(&bytes) else {
            refused += 1;
            continue;
        };
        // A damaged size may be large and still allowed; such are decoded in the test of bombs.
        if u64::from(header.width_px) * u64::from(header.height_px) > 1 << 20 {
            continue;
        }
        let (x_px, y_px) = (draws.below(header.width_px), draws.below(header.height_px));
        let width_px = 1 + draws.below(header.width_px - x_px);
        let part =
            Crop { x_px, y_px, width_px, height_px: 1 + draws.below(header.height_px - y_px) };
        match decoder.decode(&header, &mut bytes, &[part], &mut image) {
            Ok(()) => {
                assert_eq!(image.width_px, header.width_px, "case {case}");
                assert!(image.height_px >= part.y_px + part.height_px, "case {case}");
                read += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused");
}

fn small_view() -> View {
    View::Train(TrainView {
        geometry: Geometry { image_px: 16, patch_px: 8 },
        normalisation: Normalisation::IMAGENET,
        crop: TrainCrop {
            scale: (0.2, 1.0),
            ratio: (0.75, 4.0 / 3.0),
            flip: 0.5,
            filter: Filter::Bicubic,
        },
        augment: Augment::None,
        keep: Keep::Random { kept: 2 },
    })
}

/// Archives whose headers or contents are damaged open with a reason or are read to the end.
#[test]
fn mutated_archives() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, shards) = (dir.path().join("images"), dir.path());
    fs::create_dir_all(&folder).unwrap();
    for (number, file) in fixtures().iter().enumerate() {
        fs::write(folder.join(format!("{number}.jpg")), file).unwrap();
    }
    let source = Source::open(folder.to_str().unwrap(), SourceKind::Auto, Split::Train).unwrap();
    let (mut opened, mut refused) = (0, 0);
    for raw in [false, true] {
        let options = PackOptions { raw, ..PackOptions::default() };
        let packed =
            pack(&source, Split::Train, &shards.join(format!("shards-{raw}")), &options, |_| {})
                .unwrap();
        let whole = fs::read(&packed.shards[0]).unwrap();
        for case in 0..300 {
            let mut draws = Draws::new(12, u64::from(raw), case, Purpose::Test);
            let path = dir.path().join("damaged.tar");
            fs::write(&path, mutate(&mut draws, &whole)).unwrap();
            let path = path.to_str().unwrap();
            let Ok(source) = Source::open(path, SourceKind::Auto, Split::Train) else {
                refused += 1;
                continue;
            };
            opened += 1;
            let config = LoaderConfig {
                batch: 4.min(source.len()),
                max_bad_share: 1.0,
                ..LoaderConfig::default()
            };
            for batch in Loader::start(Arc::new(source), small_view(), config).unwrap() {
                // All may be unreadable, which ends the run with a reason.
                let Ok(batch) = batch else { break };
                assert_eq!(batch.patches.len(), batch.images * batch.kept * batch.patch_len);
            }
        }
    }
    assert!(opened > 50 && refused > 50, "{opened} opened, {refused} refused");
}

/// IDX and CIFAR files of any bytes open with a reason or not at all.
#[test]
fn mutated_tables() {
    let dir = tempfile::tempdir().unwrap();
    let mut images = vec![0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 4];
    images.extend((0..9 * 16).map(|value| value as u8));
    let mut labels = vec![0, 0, 8, 1, 0, 0, 0, 9];
    labels.extend(0..9);
    let cifar: Vec<u8> = (0..3 * 3073).map(|at| (at % 7) as u8).collect();
    let mut opened = [0; 2];
    for case in 0..600 {
        let mut draws = Draws::new(13, 0, case, Purpose::Test);
        let (idx, ten) = (dir.path().join("idx"), dir.path().join("cifar-10-batches-bin"));
        fs::create_dir_all(&idx).unwrap();
        fs::create_dir_all(&ten).unwrap();
        fs::write(idx.join("train-images-idx3-ubyte"), mutate(&mut draws, &images)).unwrap();
        fs::write(idx.join("train-labels-idx1-ubyte"), mutate(&mut draws, &labels)).unwrap();
        for batch in 1..6 {
            // One file of the five: with more of them damaged hardly any set would open.
            let damaged = 1 + case % 5 == batch;
            let bytes = if damaged { mutate(&mut draws, &cifar) } else { cifar.clone() };
            fs::write(ten.join(format!("data_batch_{batch}.bin")), bytes).unwrap();
        }
        for (path, opened) in [idx, ten].into_iter().zip(&mut opened) {
            if let Ok(source) = Source::open(path.to_str().unwrap(), SourceKind::Auto, Split::Train)
            {
                assert!(source.len() < 100, "case {case}: {}", source.describe());
                *opened += 1;
            }
        }
    }
    assert!(opened.iter().all(|opened| (20..580).contains(opened)), "{opened:?} opened");
}
