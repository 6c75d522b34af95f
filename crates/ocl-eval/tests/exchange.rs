//! The program on weights of other programs; what these weights give is tested in `ocl-model`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/foreign").join(name)
}

fn eval(command: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_ocl"));
    let backend = ["flex", "vulkan", "cuda"].into_iter().zip([
        cfg!(feature = "flex"),
        cfg!(feature = "vulkan"),
        cfg!(feature = "cuda"),
    ]);
    let backend = backend.into_iter().find(|(_, there)| *there).map_or("wgpu", |(name, _)| name);
    program.args([command, "--backend", backend]);
    program
}

fn stdout(output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pth_file_becomes_a_folder_for_timm() {
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("class token");
    let mut import = eval("import");
    import.arg(golden("class_token.pth")).args(["--heads", "4", "--image-px", "32", "--out"]);
    let text = stdout(import.arg(&folder).output().unwrap());
    assert!(text.contains("classifier of 5 classes") && text.contains("local-dir:"), "{text}");
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["model_args"]["img_size"], 32);
    assert_eq!(config["num_classes"], 5);
    // What it wrote it reads, without being told the heads.
    let again = out.path().join("again");
    stdout(eval("import").arg(&folder).arg("--out").arg(&again).output().unwrap());
    let [first, second] =
        [folder, again].map(|at| std::fs::read(at.join("model.safetensors")).unwrap());
    assert!(first == second, "the same weights");
}

#[test]
fn imported_weights_are_measured_without_a_run() {
    let results = tempfile::tempdir().unwrap();
    let mut knn = eval("knn");
    knn.arg("--weights").arg(golden("mean_pooled")).args([
        "--image-px",
        "28",
        "--data",
        "embedded",
    ]);
    knn.args(["--max-train", "40", "--max-test", "20", "--json", "--results"]);
    let text = stdout(knn.arg(results.path()).output().unwrap());
    let record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    // The folder's norm stands after pooling.
    assert_eq!(record["pool"], "mean", "{record}");
}

/// `tests/golden/centre_view` holds an encoder for timm with a `crop_pct` of 0.9 at 32 px, which does
/// not divide, pictures, and timm 1.0.31's features of them:
///
/// ```python
/// m = timm.create_model("local-dir:encoder", pretrained=True).eval()
/// t = timm.data.create_transform(**timm.data.resolve_data_config(m.pretrained_cfg, model=m))
/// x = torch.stack([t(Image.open(f"images/{i}.png").convert("RGB")) for i in range(3)])
/// numpy.save("expected.npy", m.forward_head(m.forward_features(x), pre_logits=True))
/// ```
#[test]
fn features_of_pictures_are_timms() {
    let at = golden("../centre_view");
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("features.npy");
    let mut embed = eval("embed");
    embed.arg(at.join("images")).arg("--weights").arg(at.join("encoder")).arg("--out").arg(&file);
    stdout(embed.output().unwrap());
    let values = |path: &std::path::Path| -> Vec<f32> {
        let bytes = std::fs::read(path).unwrap();
        let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let four = |b: &[u8]| f32::from_le_bytes(b.try_into().unwrap());
        bytes[start..].chunks_exact(4).map(four).collect()
    };
    let (ours, timms) = (values(&file), values(&at.join("expected.npy")));
    assert_eq!((ours.len(), timms.len()), (3 * 16, 3 * 16));
    let worst = ours.iter().zip(&timms).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("within {worst:e}");
    assert!(worst < 1e-5, "{worst}");
}

#[test]
fn a_network_of_several_is_told_and_chosen() {
    let out = tempfile::tempdir().unwrap();
    let state = std::fs::read(golden("../ijepa_a.safetensors")).unwrap();
    let all = safetensors::SafeTensors::deserialize(&state).unwrap();
    let weights = all.iter().filter_map(|(name, view)| Some((name.strip_prefix("weight.")?, view)));
    let path = out.path().join("checkpoint.safetensors");
    std::fs::write(&path, safetensors::serialize(weights, None).unwrap()).unwrap();
    for (prefix, taken, other) in [
        (&[][..], "`target_encoder` is taken", "`encoder` not"),
        (&["--prefix", "encoder"], "`encoder` is taken", "`target_encoder` not"),
    ] {
        let mut import = eval("import");
        import
            .arg(&path)
            .args(["--heads", "4"])
            .args(prefix)
            .arg("--out")
            .arg(out.path().join("x"));
        let output = import.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        assert!(errors.contains(taken) && errors.contains(other), "{errors}");
    }
}

#[test]
fn what_is_wrong_with_weights_is_said() {
    let cases = [
        ("class_token.pth", "give heads"),
        ("refused.pth", "not executed"),
        ("..", "model.safetensors"),
    ];
    for (file, says) in cases {
        let out = tempfile::tempdir().unwrap();
        let output = eval("import")
            .arg(golden(file))
            .arg("--out")
            .arg(out.path().join("x"))
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(says), "{file}: {errors}");
    }
}
