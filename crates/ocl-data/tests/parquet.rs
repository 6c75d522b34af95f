//! Parquet tables of images, as Hugging Face's libraries and others write them.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use ocl_data::{Loader, LoaderConfig, Order, Source, SourceError, SourceKind, Split, SplitNames};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use parquet::file::metadata::{
    ColumnChunkMetaDataBuilder, KeyValue, ParquetMetaDataBuilder, ParquetMetaDataReader,
    ParquetMetaDataWriter, RowGroupMetaData,
};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

mod support;

/// The struct of an image, then a class.
const HUB: &str = "message m { optional group image { optional binary bytes; optional binary path \
                   (STRING); } optional int64 label; }";
const NAMES: &str = r#"{"info": {"features": {"image": {"_type": "Image"},
                     "label": {"names": ["a", "b", "c"], "_type": "ClassLabel"}}}}"#;

/// A column's values, `None` where there is none.
enum Column {
    Bytes(Vec<Option<Vec<u8>>>),
    Numbers(Vec<Option<i64>>),
}

/// The definition level of a value that is there is `most`; of a missing one it is 0.
struct Leaf(Column, i16);

fn write(path: &Path, schema: &str, note: Option<&str>, groups: &[Vec<Leaf>]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let note = note.map(|note| vec![KeyValue::new("huggingface".to_owned(), note.to_owned())]);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(note)
        .build();
    let file = File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties)).unwrap();
    for leaves in groups {
        let mut group = writer.next_row_group().unwrap();
        for Leaf(column, most) in leaves {
            match column {
                Column::Bytes(values) => {
                    let there =
                        values.iter().flatten().map(|b| ByteArray::from(b.clone())).collect();
                    let levels =
                        values.iter().map(|v| if v.is_some() { *most } else { 0 }).collect();
                    put::<ByteArrayType>(&mut group, there, levels, *most);
                }
                Column::Numbers(values) => {
                    let there = values.iter().flatten().copied().collect();
                    let levels =
                        values.iter().map(|v| if v.is_some() { *most } else { 0 }).collect();
                    put::<Int64Type>(&mut group, there, levels, *most);
                }
            }
        }
        group.close().unwrap();
    }
    writer.close().unwrap();
}

fn put<T: DataType>(
    group: &mut parquet::file::writer::SerializedRowGroupWriter<'_, File>,
    values: Vec<T::T>,
    levels: Vec<i16>,
    most: i16,
) {
    let mut column = group.next_column().unwrap().unwrap();
    let levels = (most > 0).then_some(&levels[..]);
    column.typed::<T>().write_batch(&values, levels, None).unwrap();
    column.close().unwrap();
}

/// A group of the hub's schema.
fn hub(images: Vec<Option<Vec<u8>>>, labels: Vec<Option<i64>>) -> Vec<Leaf> {
    let paths = images.iter().map(|_| None).collect();
    vec![
        Leaf(Column::Bytes(images), 2),
        Leaf(Column::Bytes(paths), 2),
        Leaf(Column::Numbers(labels), 1),
    ]
}

/// Rows of one class in groups of these sizes, the images `x`.
fn plain(path: &Path, sizes: &[usize], label: i64) {
    let groups: Vec<Vec<Leaf>> = sizes
        .iter()
        .map(|&rows| hub(vec![Some(b"x".to_vec()); rows], vec![Some(label); rows]))
        .collect();
    write(path, HUB, Some(NAMES), &groups);
}

fn open(path: &Path, split: Split) -> Result<Source, SourceError> {
    Source::open(path.to_str().unwrap(), SourceKind::Auto, split)
}

fn error(path: &Path, split: Split) -> String {
    open(path, split).unwrap_err().to_string()
}

#[test]
fn what_hugging_face_writes_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet");
    for (split, count) in [(Split::Train, 7), (Split::Test, 4)] {
        let source = open(&folder, split).unwrap();
        assert_eq!(source.class_names(), ["tench", "goldfish", "shark"]);
        let labels: Vec<u32> = (0..count).map(|row| row % 3).collect();
        assert_eq!(source.labels().unwrap(), labels);
        for row in 0..count {
            let image = source.image(row as usize).unwrap();
            assert_eq!((image.width_px, image.height_px), (5 + row, 6));
        }
        let name = source.name_of(3);
        assert!(name.ends_with("-00000-of-00001.parquet[3]"), "{name}");
        assert_eq!(source.passed_over(), None, "the column `note` is no class");
    }
}

#[test]
fn a_codec_that_is_not_built_in_is_named() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet/zstd");
    let told = error(&folder, Split::Train);
    assert!(told.contains("compressed by ZSTD") && told.contains("snappy"), "{told}");
}

#[test]
fn tables_are_found_where_downloads_leave_them() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, rows| plain(&dir.path().join(name), &[rows], 1);
    put("set/data/train-00000-of-00002.parquet", 3);
    put("set/data/train-00001-of-00002.parquet", 2);
    put("set/data/validation-00000-of-00001.parquet", 1);
    put("set/data/test-00000-of-00001.parquet", 9);
    fs::write(dir.path().join("set/README.md"), "").unwrap();
    put("converted/default/train/0000.parquet", 4);
    put("converted/default/test/0000.parquet", 2);
    let counts = |path: &Path| [Split::Train, Split::Test].map(|s| open(path, s).unwrap().len());
    assert_eq!(counts(&dir.path().join("set")), [5, 1]);
    assert_eq!(counts(&dir.path().join("converted")), [4, 2]);
    let pattern = dir.path().join("set/data/train-*.parquet");
    assert_eq!(open(&pattern, Split::Train).unwrap().len(), 5);
    // A pattern that fits all parts does not mix them.
    assert_eq!(counts(&dir.path().join("set/data/*.parquet")), [5, 1]);
    let range = dir.path().join("set/data/train-{00000..00001}-of-00002.parquet");
    assert_eq!(open(&range, Split::Train).unwrap().len(), 5);
    let names = SplitNames { train: None, test: Some("test".into()) };
    let set = dir.path().join("set");
    let test = Source::open_named(set.to_str().unwrap(), SourceKind::Parquet, Split::Test, &names)
        .unwrap();
    assert_eq!(test.len(), 9);
    put("variants/small/train.parquet", 1);
    put("variants/large/train.parquet", 1);
    let told = Source::open(
        dir.path().join("variants").to_str().unwrap(),
        SourceKind::Parquet,
        Split::Train,
    );
    let told = told.unwrap_err().to_string();
    assert!(told.contains("`large`, `small` each hold tables"), "{told}");
}

#[test]
fn rows_without_an_image_or_a_class_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    let image = |byte: u8| Some(vec![byte]);
    let groups = [
        hub(vec![image(1), None, image(2)], vec![Some(0), Some(1), Some(2)]),
        hub(vec![None], vec![Some(1)]),
        hub(vec![image(3)], vec![Some(1)]),
    ];
    write(&path, HUB, Some(NAMES), &groups);
    let source = open(&path, Split::Train).unwrap();
    assert_eq!(source.labels().unwrap(), [0, 2, 1]);
    let passed = source.passed_over().unwrap();
    assert!(
        passed.contains("2 rows without an image passed over") && passed.contains("[1]"),
        "{passed}"
    );
    let names: Vec<String> = (0..3).map(|row| source.name_of(row)).collect();
    for (name, row) in names.iter().zip(["[0]", "[2]", "[4]"]) {
        assert!(name.ends_with(row), "{name}");
    }
    // Withheld, as in the test parts of many data sets.
    write(&path, HUB, Some(NAMES), &[hub(vec![image(1), image(2)], vec![Some(-1), Some(1)])]);
    let source = open(&path, Split::Train).unwrap();
    assert_eq!(source.labels(), None);
    assert!(source.passed_over().unwrap().contains("without labels, as 1 rows have none"));
    write(&path, HUB, Some(NAMES), &[hub(vec![image(1)], vec![Some(3)])]);
    let told = error(&path, Split::Train);
    assert!(told.contains("train.parquet[0] is of class 3 of 0..3"), "{told}");
}

#[test]
fn columns_by_name_and_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    let bytes = |words: &[&str]| {
        Column::Bytes(words.iter().map(|word| Some(word.as_bytes().to_vec())).collect())
    };
    // Words are classes of their own, in the order of the alphabet.
    let schema = "message m { required binary url (STRING); required binary jpg; required binary cls (STRING); \
                  required int64 width; }";
    let leaves = vec![
        Leaf(bytes(&["u", "v"]), 0),
        Leaf(bytes(&["x", "y"]), 0),
        Leaf(bytes(&["owl", "ant"]), 0),
        Leaf(Column::Numbers(vec![Some(1), Some(2)]), 0),
    ];
    write(&path, schema, None, &[leaves]);
    let source = open(&path, Split::Train).unwrap();
    assert_eq!(
        (source.class_names(), source.labels().unwrap()),
        (&["ant".to_owned(), "owl".to_owned()][..], &[1, 0][..])
    );

    let schema = "message m { required binary one; required binary two; }";
    write(&path, schema, None, &[vec![Leaf(bytes(&["x"]), 0), Leaf(bytes(&["y"]), 0)]]);
    let told = error(&path, Split::Train);
    assert!(told.contains("which of the columns `one`, `two` holds the images"), "{told}");

    let schema = "message m { required binary url (STRING); required int64 label; }";
    let leaves = vec![Leaf(bytes(&["u"]), 0), Leaf(Column::Numbers(vec![Some(1)]), 0)];
    write(&path, schema, None, &[leaves]);
    let told = error(&path, Split::Train);
    assert!(told.contains("no column of image bytes among `url`, `label`"), "{told}");

    fs::write(&path, "no table").unwrap();
    assert!(error(&path, Split::Train).contains("no table that can be read"));
}

/// Many small row groups of real images, and the folder that they come from.
fn pictures(dir: &Path) -> (Arc<Source>, Arc<Source>) {
    let folder = dir.join("plain");
    fs::create_dir(&folder).unwrap();
    let plain = support::folder(&folder, 40, &[5]);
    let image = |number: usize| Some(fs::read(folder.join(format!("{number:04}.png"))).unwrap());
    let groups: Vec<Vec<Leaf>> = (0..40)
        .collect::<Vec<usize>>()
        .chunks(7)
        .map(|rows| hub(rows.iter().map(|&row| image(row)).collect(), vec![Some(0); rows.len()]))
        .collect();
    let path = dir.join("train.parquet");
    write(&path, HUB, None, &groups);
    (plain, Arc::new(open(&path, Split::Train).unwrap()))
}

fn batches(source: &Arc<Source>, config: LoaderConfig) -> Vec<(Vec<u64>, Vec<f32>)> {
    let loader = Loader::start(source.clone(), support::train(4), config).unwrap();
    loader.map(|batch| batch.unwrap()).map(|batch| (batch.samples, batch.patches)).collect()
}

#[test]
fn batches_are_those_of_the_folder_whatever_the_workers() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, table) = pictures(dir.path());
    for (order, subset) in [
        (Order::Shuffled, None),
        (Order::Sequential, None),
        (Order::Shuffled, Some((3..37).step_by(2).collect::<Vec<u32>>())),
    ] {
        let config = LoaderConfig {
            batch: 5,
            epochs: 0..3,
            max_bad_share: 0.5,
            order,
            subset,
            ..LoaderConfig::default()
        };
        // So few are mixed all with all, as those of a folder are.
        let expected = batches(&plain, config.clone());
        for workers in [1, 2, 8] {
            assert!(batches(&table, LoaderConfig { workers, ..config.clone() }) == expected);
        }
        let rest = batches(&table, LoaderConfig { first_batch: 2, workers: 3, ..config });
        assert!(rest == expected[2..]);
    }
}

/// A damaged table is refused, or its images are errors, and never a panic.
#[test]
fn mutated_tables_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    let rows = |from: u8| (from..from + 4).map(|byte| Some(vec![byte; 40])).collect::<Vec<_>>();
    let labels = || vec![Some(0), Some(1), Some(2), Some(0)];
    write(&path, HUB, Some(NAMES), &[hub(rows(1), labels()), hub(rows(5), labels())]);
    let whole = fs::read(&path).unwrap();
    let rounds = std::env::var("OCL_MUTATIONS").map_or(1_000, |count| count.parse().unwrap());
    let mut random = ChaCha8Rng::seed_from_u64(9);
    for _ in 0..rounds {
        let mut bytes = whole.clone();
        for _ in 0..random.random_range(1..5) {
            let at = random.random_range(0..bytes.len());
            match random.random_range(0..4) {
                0 => bytes[at] = random.random(),
                1 | 2 => bytes[at] ^= 1 << random.random_range(0..8),
                _ if at > bytes.len() / 2 => drop(bytes.drain(at / 2..at / 2 + 3)),
                _ => {}
            }
        }
        fs::write(&path, &bytes).unwrap();
        let Ok(source) = open(&path, Split::Train) else { continue };
        for index in 0..source.len().min(20) {
            // No content is an image.
            assert!(source.image(index).is_err());
            assert!(!source.name_of(index).is_empty());
        }
    }
}

/// A table whose end is replaced by another that says something else.
fn with_another_end(path: &Path, change: impl Fn(RowGroupMetaData) -> RowGroupMetaData) {
    let whole = fs::read(path).unwrap();
    let about = ParquetMetaDataReader::new().parse_and_finish(&File::open(path).unwrap()).unwrap();
    let (tail, len) = (whole.len() - 8, whole.len());
    let end = u32::from_le_bytes(whole[tail..len - 4].try_into().unwrap()) as usize;
    let groups = about.row_groups().iter().cloned().map(change).collect();
    let about = ParquetMetaDataBuilder::new(about.file_metadata().clone());
    let about = about.set_row_groups(groups).build();
    let mut changed = whole[..tail - end].to_vec();
    ParquetMetaDataWriter::new(&mut changed, &about).finish().unwrap();
    fs::write(path, changed).unwrap();
}

/// Rows and places that no file of its length can have: a reason, and no memory taken for them.
#[test]
fn promises_that_no_file_can_keep() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    let schema = "message m { required binary image; }";
    let row = || vec![Leaf(Column::Bytes(vec![Some(vec![7; 9])]), 0)];
    for rows in [1 << 30, i64::MAX / 3] {
        write(&path, schema, None, &[row(), row(), row()]);
        with_another_end(&path, |group| group.into_builder().set_num_rows(rows).build().unwrap());
        let told = error(&path, Split::Train);
        assert!(told.contains("rows and more in"), "{told}");
    }
    for change in [
        |column: ColumnChunkMetaDataBuilder| column.set_total_compressed_size(i64::MAX),
        |column: ColumnChunkMetaDataBuilder| column.set_total_compressed_size(-1),
        |column: ColumnChunkMetaDataBuilder| column.set_data_page_offset(-9),
    ] {
        write(&path, schema, None, &[row()]);
        with_another_end(&path, |group| {
            let column = group.column(0).clone().into_builder().set_dictionary_page_offset(None);
            let columns = vec![change(column).build().unwrap()];
            group.into_builder().set_column_metadata(columns).build().unwrap()
        });
        let told = error(&path, Split::Train);
        assert!(told.contains("beyond the file's end"), "{told}");
    }
    write(&path, schema, None, &[row()]);
    with_another_end(&path, |group| {
        let column = group.column(0).clone().into_builder();
        let column = column.set_compression(Compression::ZSTD(Default::default()));
        let columns = vec![column.build().unwrap()];
        group.into_builder().set_column_metadata(columns).build().unwrap()
    });
    let told = error(&path, Split::Train);
    assert!(told.contains("compressed by ZSTD, which") && told.contains("snappy"), "{told}");
}

/// A page of a few bytes that is said to unpack to gigabytes is not believed.
#[test]
fn a_page_that_unpacks_to_more_than_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    let schema = "message m { required binary image; }";
    write(&path, schema, None, &[vec![Leaf(Column::Bytes(vec![Some(vec![7; 9])]), 0)]]);
    let mut whole = fs::read(&path).unwrap();
    // The header of the first page: its type, then two sizes of a byte each. The first size grows
    // into the five bytes of 2^31 - 1, and so does all that follows.
    assert_eq!((whole[4], whole[6], whole[8]), (0x15, 0x15, 0x15));
    whole.splice(7..8, [0xFE, 0xFF, 0xFF, 0xFF, 0x0F]);
    fs::write(&path, whole).unwrap();
    let source = open(&path, Split::Train).unwrap();
    let told = ocl_data::in_words(&source.image(0).unwrap_err());
    assert!(told.contains("said to unpack to 2147483647"), "{told}");
}

#[test]
fn withheld_classes_and_absent_images_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("train.parquet");
    // Without names too, -1 stands for a class that is withheld.
    let images = || vec![Some(vec![1]), Some(vec![2])];
    write(&path, HUB, None, &[hub(images(), vec![Some(-1), Some(-1)])]);
    assert_eq!(open(&path, Split::Train).unwrap().labels(), None);
    write(&path, HUB, None, &[hub(vec![None, None], vec![Some(0), Some(1)])]);
    let told = error(&path, Split::Train);
    assert!(told.contains("2 rows without an image passed over"), "{told}");
}
