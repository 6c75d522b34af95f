//! Fixed positions against vectors made by the reference implementation.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::PathBuf;

use safetensors::SafeTensors;

#[test]
fn positions_equal_the_golden_tables() {
    let folder = std::env::var_os("OCL_GOLDEN_DIR").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden"),
        PathBuf::from,
    );
    let mut tables = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            // Tables are named d{width}_s{side}.
            let Some((width, side)) = name.strip_prefix('d').and_then(|rest| rest.split_once("_s"))
            else {
                continue;
            };
            let (width, side): (usize, usize) = (width.parse().unwrap(), side.parse().unwrap());
            let expected =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let table = ocl_model::sincos_table(width, side);
            assert_eq!(view.shape(), [1 + side * side, width], "{name}");
            for (ours, golden) in table.iter().zip(expected) {
                assert!((ours - golden).abs() < 1e-6, "{name}: {ours} against {golden}");
            }
            tables += 1;
        }
    }
    assert!(tables > 0 || std::env::var_os("OCL_GOLDEN_DIR").is_some(), "no table in {folder:?}");
}
