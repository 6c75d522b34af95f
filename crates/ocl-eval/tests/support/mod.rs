//! What tests of the program share.

use burn::tensor::Device;
use ocl_data::{Source, Split};
use ocl_model::{Vit, save_weights};
use ocl_train::{Backend, Plan, Recipe};

/// The backend that is compiled in: the CPU's, or the one that tests were asked for.
pub(crate) fn backend() -> String {
    [Backend::Flex, Backend::Vulkan, Backend::Cuda, Backend::Wgpu]
        .into_iter()
        .find(|backend| backend.device().is_ok())
        .unwrap()
        .to_string()
}

/// A run folder as pre-training leaves it, with a very small encoder of `depth` blocks on the data
/// at `path`; `more` changes further values of the embedded recipe.
pub(crate) fn run_folder(
    depth: usize,
    path: &str,
    kind: &str,
    more: &[String],
) -> tempfile::TempDir {
    let mut overrides: Vec<String> =
        ["width=16", "heads=2", "patch_px=7"].map(|pair| format!("model.{pair}")).to_vec();
    overrides.push(format!("model.depth={depth}"));
    overrides.extend_from_slice(more);
    let recipe = Recipe::load("embedded", &overrides).unwrap();
    let source = Source::open(path, kind.parse().unwrap(), Split::Train).unwrap();
    let plan = Plan::resolve("embedded", &recipe, &source).unwrap();
    let run = tempfile::tempdir().unwrap();
    std::fs::write(run.path().join("plan.toml"), plan.to_toml()).unwrap();
    let vit = Vit::new(&plan.model, 99, &Device::default()).unwrap();
    save_weights(&vit, &run.path().join("encoder.safetensors"), &[]).unwrap();
    run
}
