//! `test`, `bench` and `ci`: cargo, called so that nothing is compiled twice.
//!
//! Everything is the release profile with the crates' default features. So the tests use what
//! `pretrain` has built, and clippy and rustdoc share build scripts, macros and metadata.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::backend::{self, Backend, ON_BACKEND};
use crate::command::{self, Failure};
use crate::{own_help, tidy};

/// `cargo xtask test`.
pub(crate) fn test(args: Vec<OsString>) -> Result<(), Failure> {
    let options = "  --backend NAME  flex (all crates; the default), wgpu, vulkan or cuda\n  \
                   anything else    goes to `cargo test`, e.g. `-p ocl-loss` or `-- golden`\n";
    if own_help("test", &args, options) {
        return Ok(());
    }
    let (backend, args) = backend::take(args)?;
    command::run(test_command(backend, &args).args(&args))
}

/// `cargo test` for a backend; examples are built by it too.
fn test_command(backend: Backend, args: &[OsString]) -> Command {
    let mut cargo = command::cargo(&["test", "--release"]);
    select(&mut cargo, backend, args);
    cargo
}

/// `cargo xtask bench`.
pub(crate) fn bench(args: Vec<OsString>) -> Result<(), Failure> {
    let options = "  --backend NAME  flex (all crates; the default), wgpu, vulkan or cuda\n  \
                   anything else    goes to `cargo bench`, e.g. `--bench NAME`\n";
    if own_help("bench", &args, options) {
        return Ok(());
    }
    let (backend, args) = backend::take(args)?;
    let mut cargo = command::cargo(&["bench"]);
    select(&mut cargo, backend, &args);
    if !names_any(&args, &["--bench"]) {
        // Without it cargo also starts every unit test's harness, which has no benchmarks.
        cargo.args(["--bench", "*"]);
    }
    command::run(cargo.args(&args))
}

/// `cargo xtask bench-step`: the training step alone, for anyone's machine.
pub(crate) fn bench_step(args: Vec<OsString>) -> Result<(), Failure> {
    let (backend, args) = backend::take(args)?;
    let mut cargo = command::cargo(&["bench", "--bench", "step"]);
    for package in backend::ON_BACKEND {
        cargo.args(["-p", package]);
    }
    cargo.args(backend.features()).args(["--", "--backend", backend.name()]);
    command::run(cargo.args(&args))
}

/// Adds the packages, unless `args` names some, and the features of `backend`.
fn select(cargo: &mut Command, backend: Backend, args: &[OsString]) {
    let named = names_any(args, &["-p", "--package", "--workspace"]);
    if backend == Backend::Flex {
        if !named {
            cargo.arg("--workspace");
        }
        return;
    }
    if named {
        cargo.args(["--no-default-features", "--features", backend.name()]);
    } else {
        for package in ON_BACKEND {
            cargo.args(["-p", package]);
        }
        cargo.args(backend.features());
    }
    // Tests are many small shapes: tuning the kernels for each would take far longer than using
    // untuned ones.
    if std::env::var_os("CUBECL_AUTOTUNE_LEVEL").is_none() {
        cargo.env("CUBECL_AUTOTUNE_LEVEL", "0");
    }
}

/// Whether one of `options` stands before `--`, as a word or as `option=value`.
fn names_any(args: &[OsString], options: &[&str]) -> bool {
    args.iter()
        .take_while(|arg| *arg != "--")
        .filter_map(|arg| arg.to_str())
        .any(|arg| options.contains(&arg.split_once('=').map_or(arg, |(option, _)| option)))
}

/// What must hold on every backend: our numbers against the reference's. The others test our own
/// logic, which is the same everywhere, and take long on a GPU that a CPU plays.
const GOLDEN_TESTS: [&str; 4] = ["golden", "golden_linear_probe", "positions", "timm"];

/// `cargo xtask ci`: the cheap checks first, and the first that fails ends it.
pub(crate) fn ci(args: Vec<OsString>) -> Result<(), Failure> {
    let options = "  --with-wgpu     also run the golden tests on wgpu; needs a\n  \
                   \x20                 Vulkan driver, of which Mesa's lavapipe is one without a GPU\n  \
                   --with-mpi      also run the tests of several processes; needs Open MPI\n";
    if own_help("ci", &args, options) {
        return Ok(());
    }
    if let Some(unknown) = args.iter().find(|arg| *arg != "--with-wgpu" && *arg != "--with-mpi") {
        let unknown = unknown.to_string_lossy();
        let reason = format!("ci has no option `{unknown}`; it has --with-wgpu and --with-mpi");
        return Err(Failure::usage(reason));
    }
    let with_wgpu = args.iter().any(|arg| arg == "--with-wgpu");
    let with_mpi = args.iter().any(|arg| arg == "--with-mpi");
    if let Some(lacks) = ["mpicc", "mpirun"].iter().find(|name| !command::is_there(name))
        && with_mpi
    {
        return Err(Failure::new(format!(
            "--with-mpi needs an MPI, and there is no {lacks} (on Debian: apt-get install \
             libopenmpi-dev openmpi-bin libclang-dev clang). Without the option ci runs all but \
             that part."
        )));
    }
    if with_wgpu && !has_graphics_driver() {
        return Err(Failure::new(
            "--with-wgpu needs a Vulkan loader and driver (on Debian: apt-get install \
             libvulkan1 mesa-vulkan-drivers). Without the option ci runs all but that part.",
        ));
    }

    let mut steps = Steps::default();
    steps.cargo("format", &mut command::cargo(&["fmt", "--all", "--check"]))?;
    steps.step("tidy", "cargo xtask tidy", || tidy::command(Vec::new()))?;
    // `--release` for clippy and rustdoc only decides which build scripts and macros they use:
    // those that the tests need as well. Their flags reach our crates alone, so that the
    // dependencies' metadata serves both.
    let clippy = ["clippy", "--locked", "--release", "--workspace", "--all-targets"];
    steps.cargo("clippy", command::cargo(&clippy).args(["--", "-D", "warnings"]))?;
    if with_mpi {
        let mut mpi = command::cargo(&clippy);
        mpi.args(["--features", backend::MPI, "--", "-D", "warnings"]);
        steps.cargo("clippy with mpi", &mut mpi)?;
        // What only several CUDA devices run. Types need neither a GPU nor CUDA: without documents
        // in view, a build script would fetch a compiler.
        let mut nccl = command::cargo(&["check", "--locked", "--release", "-p", "ocl-train"]);
        nccl.args(["--no-default-features", "--features", "cuda,mpi"]).env("DOCS_RS", "1");
        steps.cargo("nccl's types", &mut nccl)?;
    }
    let doc = ["doc", "--locked", "--release", "--workspace", "--no-deps"];
    steps.cargo("docs", command::cargo(&doc).env("RUSTDOCFLAGS", "-D warnings"))?;
    steps.cargo("tests", test_command(Backend::Flex, &[]).arg("--locked"))?;
    // Each crate has all that it is made of. Publishing stays off, so that no registry is asked.
    for package in backend::PACKAGES {
        let list = ["package", "--list", "--allow-dirty", "--quiet", "-p", package];
        steps.cargo("package", command::cargo(&list).stdout(std::process::Stdio::null()))?;
    }
    if with_mpi {
        let mut ranks = test_command(Backend::Flex, &[]);
        ranks.args(["--locked", "--features", backend::MPI]);
        ranks.args(["--test", "ranks", "--test", "guard"]);
        steps.cargo("ranks", &mut ranks)?;
    }
    if with_wgpu {
        let mut goldens = test_command(Backend::Wgpu, &[]);
        goldens.arg("--locked").args(GOLDEN_TESTS.iter().flat_map(|name| ["--test", name]));
        steps.cargo("goldens on wgpu", &mut goldens)?;
        let mut kernels = test_command(Backend::Wgpu, &[]);
        kernels.args(["--locked", "--lib", "--", "gpu::tests::"]);
        steps.cargo("kernels on wgpu", &mut kernels)?;
    }
    steps.summary(with_wgpu, with_mpi);
    Ok(())
}

/// Whether wgpu can find a driver, as far as can be told without it.
///
/// macOS and Windows bring theirs. Elsewhere wgpu loads Vulkan's loader when it starts.
fn has_graphics_driver() -> bool {
    if cfg!(any(target_os = "macos", windows)) {
        return true;
    }
    const LOADER: &str = "libvulkan.so.1";
    let listed = ["ldconfig", "/sbin/ldconfig"].iter().any(|program| {
        let output = Command::new(program).arg("-p").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(LOADER))
    });
    let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    listed
        || std::env::split_paths(&folders).any(|folder| folder.join(LOADER).exists())
        || Path::new("/usr/lib").join(LOADER).exists()
}

/// The steps of a CI run, with the time that each took.
#[derive(Default)]
struct Steps {
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    fn cargo(&mut self, name: &'static str, cargo: &mut Command) -> Result<(), Failure> {
        let line = line(cargo);
        self.step(name, &line, || command::run(cargo))
    }

    fn step(
        &mut self,
        name: &'static str,
        line: &str,
        work: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        eprintln!("\n==> {name}: {line}");
        let start = Instant::now();
        work().map_err(|failure| {
            failure.with_message(format!("ci ended at `{name}`. Only that again: {line}"))
        })?;
        self.done.push((name, start.elapsed()));
        Ok(())
    }

    fn summary(&self, with_wgpu: bool, with_mpi: bool) {
        eprintln!("\nci passed:");
        for (name, time) in &self.done {
            eprintln!("  {name:<15} {:>6.1} s", time.as_secs_f64());
        }
        if !with_wgpu {
            eprintln!("  goldens on wgpu  not run (--with-wgpu)");
        }
        if !with_mpi {
            eprintln!("  ranks            not run (--with-mpi)");
        }
    }
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let mut words = vec!["cargo".to_owned()];
    words.extend(command.get_args().map(|arg| command::word(&arg.to_string_lossy())));
    let set = command.get_envs().filter_map(|(key, value)| {
        Some(format!("{}={}", key.to_string_lossy(), command::word(&value?.to_string_lossy())))
    });
    set.chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(backend: Backend, args: &[&str]) -> String {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        let mut cargo = test_command(backend, &args);
        cargo.env_remove("CUBECL_AUTOTUNE_LEVEL");
        line(&cargo)
    }

    #[test]
    fn flex_tests_the_workspace_with_default_features() {
        assert_eq!(selected(Backend::Flex, &[]), "cargo test --release --workspace");
        assert_eq!(selected(Backend::Flex, &["-p", "ocl-data"]), "cargo test --release");
        assert_eq!(
            selected(Backend::Flex, &["--", "-p"]),
            "cargo test --release --workspace",
            "what follows -- is the tests' own"
        );
    }

    #[test]
    fn a_gpu_backend_tests_what_computes_on_it() {
        let all = selected(Backend::Wgpu, &[]);
        assert!(all.contains("-p ocl-model"), "{all}");
        assert!(!all.contains("ocl-data"), "{all}");
        assert!(all.contains("--no-default-features --features ocl-model/wgpu,"), "{all}");
        let one = selected(Backend::Cuda, &["--package=ocl-loss"]);
        assert!(one.ends_with("--no-default-features --features cuda"), "{one}");
    }

    #[test]
    fn a_failed_step_says_how_to_repeat_it() {
        let mut steps = Steps::default();
        let work = || Err(Failure::new("x"));
        let failure = steps.step("docs", "cargo doc", work).expect_err("it failed");
        assert!(failure.to_string().ends_with("cargo doc"), "{failure}");
        assert!(steps.done.is_empty());
    }
}
