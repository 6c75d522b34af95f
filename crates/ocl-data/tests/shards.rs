//! Tar shards: what is packed comes back, archives of other programs are read, tricks lead nowhere.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Command;
use std::sync::Arc;

use ocl_data::{
    Augment, Batch, Filter, Geometry, Keep, Loader, LoaderConfig, Normalisation, PackOptions,
    Packed, Source, SourceKind, Split, TrainCrop, TrainView, View, pack,
};

fn view() -> View {
    View::Train(TrainView {
        geometry: Geometry { image_px: 32, patch_px: 8 },
        normalisation: Normalisation::IMAGENET,
        crop: TrainCrop {
            scale: (0.2, 1.0),
            ratio: (0.75, 4.0 / 3.0),
            flip: 0.5,
            filter: Filter::Bicubic,
        },
        augment: Augment::None,
        keep: Keep::Random { kept: 8 },
    })
}

fn open(path: &str) -> Arc<Source> {
    Arc::new(Source::open(path, SourceKind::Auto, Split::Train).unwrap())
}

/// Class folders of PNGs.
fn folder(dir: &Path) -> Arc<Source> {
    for number in 0..30u32 {
        let class = dir.join(format!("train/c{}", number % 3));
        fs::create_dir_all(&class).unwrap();
        let shade = |x: u32, y: u32| image::Rgb([(x * 5 + number) as u8, (y * 9) as u8, 77]);
        let picture = image::RgbImage::from_fn(80 + number, 60, shade);
        picture.save(class.join(format!("{number:02}.png"))).unwrap();
    }
    open(dir.to_str().unwrap())
}

fn packed(source: &Source, to: &Path, options: PackOptions) -> Packed {
    pack(source, Split::Train, to, &options, |_| {}).unwrap()
}

fn batches(source: &Arc<Source>, config: LoaderConfig) -> Vec<Batch> {
    Loader::start(Arc::clone(source), view(), config).unwrap().map(Result::unwrap).collect()
}

#[test]
fn what_is_packed_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(&dir.path().join("images"));
    let config = LoaderConfig { batch: 7, workers: 2, epochs: 0..2, ..LoaderConfig::default() };
    let wanted = batches(&source, config.clone());
    for raw in [false, true] {
        let to = dir.path().join(format!("shards-{raw}"));
        // Small enough for several shards.
        let options = PackOptions { raw, shard_bytes: 1_000, ..PackOptions::default() };
        let shards = packed(&source, &to, options).shards.len();
        assert!(shards > 1);
        let again = open(to.to_str().unwrap());
        assert_eq!(again.labels(), source.labels());
        assert!(batches(&again, config.clone()) == wanted, "raw: {raw}");
        let range = format!("{}/train-{{000000..{:06}}}.tar", to.display(), shards - 1);
        assert_eq!(open(&range).len(), 30);
    }
}

#[test]
fn resized_shards_are_of_the_size_and_skip_alike() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(&dir.path().join("images"));
    let mut plain = Vec::new();
    for raw in [true, false] {
        let to = dir.path().join(format!("shards-{raw}"));
        let options =
            PackOptions { raw, short_side_px: Some(40), quality: 100, ..PackOptions::default() };
        assert_eq!(packed(&source, &to, options).images, 30);
        let config = LoaderConfig { batch: 30, ..LoaderConfig::default() };
        let made = batches(&open(to.to_str().unwrap()), config).remove(0);
        if raw {
            plain = made.patches;
        } else {
            assert_eq!(made.patches.len(), plain.len());
            let pairs = made.patches.iter().zip(&plain);
            let mean =
                pairs.map(|(a, b)| f64::from((a - b).abs())).sum::<f64>() / plain.len() as f64;
            assert!(mean < 0.1, "JPEGs of quality 100 differ by {mean} from their pixels");
        }
    }
}

/// `tar` reads what is written, and what `tar` writes is read.
#[cfg(target_os = "linux")]
#[test]
fn other_programs_read_and_write_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(&dir.path().join("images"));
    let to = dir.path().join("shards");
    let shard = packed(&source, &to, PackOptions::default()).shards.remove(0);
    let listed = Command::new("tar").arg("-tf").arg(&shard).output().expect("tar is installed");
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(
        listed.lines().take(3).collect::<Vec<_>>(),
        ["000000000.png", "000000000.cls", "000000001.png"]
    );

    let long = "a-folder-of-a-long-name/".repeat(9);
    let made = dir.path().join("made");
    fs::create_dir_all(made.join(&long)).unwrap();
    let png = fs::read(dir.path().join("images/train/c0/00.png")).unwrap();
    fs::write(made.join(&long).join("x.png"), &png).unwrap();
    fs::write(made.join(&long).join("x.json"), r#"{"label": 4}"#).unwrap();
    for format in ["gnu", "posix", "ustar"] {
        let archive = dir.path().join(format!("{format}.tar"));
        let mut command = Command::new("tar");
        command
            .args(["--format", format, "--sort=name", "-C"])
            .arg(&made)
            .arg("-cf")
            .arg(&archive)
            .arg(".");
        assert!(command.status().unwrap().success());
        let source = open(archive.to_str().unwrap());
        assert_eq!((source.len(), source.labels()), (1, Some([4].as_slice())), "{format}");
        assert!(source.name_of(0).ends_with("name/x.png"), "{format}: {}", source.name_of(0));
    }
}

/// Names with `../`, links and devices: nothing is opened but the archive itself.
#[test]
fn tricks_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder(&dir.path().join("images"));
    let shard =
        packed(&source, &dir.path().join("shards"), PackOptions::default()).shards.remove(0);
    let mut bytes = fs::read(shard).unwrap();
    for (block, kind, name) in [(0, b'2', "/etc/passwd.png"), (1, b'0', "../../../../etc/x.png")] {
        // The header of the first member, and of the second image.
        let at = bytes
            .windows(13)
            .position(|name| name == format!("{block:09}.png").as_bytes())
            .unwrap();
        let header = &mut bytes[at..at + 512];
        header[..100].fill(0);
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[156] = kind;
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let path = dir.path().join("tricks.tar");
    fs::write(&path, bytes).unwrap();
    let source = open(path.to_str().unwrap());
    assert_eq!(source.len(), 29, "the link is no sample");
    assert!(source.name_of(0).ends_with("tricks.tar/../../../../etc/x.png"));
    let config = LoaderConfig { batch: 29, ..LoaderConfig::default() };
    assert_eq!(batches(&source, config)[0].images, 29);
}

#[test]
fn archives_that_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.tar");
    for (bytes, word) in
        [(vec![7; 2000], "checksum"), (vec![0; 1024], "no images"), (Vec::new(), "no images")]
    {
        fs::write(&path, bytes).unwrap();
        let error =
            Source::open(path.to_str().unwrap(), SourceKind::Auto, Split::Train).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
