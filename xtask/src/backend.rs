//! `--backend NAME`: the one choice that is made when compiling, so xtask must read it.

use std::ffi::{OsStr, OsString};

use crate::command::Failure;
use crate::nearest;

/// The crates that compute on a backend and have its feature.
pub(crate) const ON_BACKEND: [&str; 4] = ["ocl-model", "ocl-loss", "ocl-train", "ocl-eval"];

/// Cargo's features for several processes.
pub(crate) const MPI: &str = "ocl-train/mpi,ocl-eval/mpi";

/// The crates that could be published.
pub(crate) const PACKAGES: [&str; 5] =
    ["ocl-data", "ocl-model", "ocl-loss", "ocl-train", "ocl-eval"];

/// A backend of burn that our crates can be compiled for; each is a cargo feature of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Flex,
    Wgpu,
    Vulkan,
    Cuda,
}

impl Backend {
    const ALL: [Self; 4] = [Self::Flex, Self::Wgpu, Self::Vulkan, Self::Cuda];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Cuda => "cuda",
        }
    }

    fn runs_on(self) -> &'static str {
        match self {
            Self::Flex => "the CPU; the default",
            Self::Wgpu => "any GPU, by way of Metal, DirectX 12 or Vulkan",
            Self::Vulkan => "GPUs with a Vulkan driver, with shaders compiled for it directly",
            Self::Cuda => "NVIDIA GPUs",
        }
    }

    /// Cargo's feature arguments that compile [`ON_BACKEND`] for this backend.
    ///
    /// Empty for flex: it is the crates' default feature, and naming it would be a second way to
    /// say the same thing. The default `cargo test` then shares every artefact with `pretrain`.
    pub(crate) fn features(self) -> Vec<String> {
        if self == Self::Flex {
            return Vec::new();
        }
        let features: Vec<_> = ON_BACKEND.iter().map(|p| format!("{p}/{}", self.name())).collect();
        vec!["--no-default-features".into(), "--features".into(), features.join(",")]
    }

    fn parse(name: &OsStr) -> Result<Self, Failure> {
        let name = name.to_string_lossy();
        Self::ALL.into_iter().find(|backend| backend.name() == name).ok_or_else(|| {
            let near = nearest(&name, Self::ALL.iter().map(|backend| backend.name()))
                .map_or_else(String::new, |near| format!(" Did you mean `{near}`?"));
            Failure::usage(format!("there is no backend `{name}`.{near} There are:\n{}", list()))
        })
    }
}

/// One line for each backend.
pub(crate) fn list() -> String {
    Backend::ALL.iter().map(|b| format!("  {:<12} {}\n", b.name(), b.runs_on())).collect()
}

/// Takes `--backend NAME` or `--backend=NAME` out of `args`; the last one given counts.
///
/// Arguments after `--` are another program's and are left alone.
pub(crate) fn take(args: Vec<OsString>) -> Result<(Backend, Vec<OsString>), Failure> {
    let mut backend = Backend::Flex;
    let mut rest = Vec::with_capacity(args.len());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            rest.push(arg);
            rest.extend(args.by_ref());
        } else if arg == "--backend" {
            let name = args.next().ok_or_else(|| {
                Failure::usage(format!("--backend needs a name. There are:\n{}", list()))
            })?;
            backend = Backend::parse(&name)?;
        } else if let Some(name) = arg.to_str().and_then(|arg| arg.strip_prefix("--backend=")) {
            backend = Backend::parse(OsStr::new(name))?;
        } else {
            rest.push(arg);
        }
    }
    Ok((backend, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(line: &str) -> Result<(Backend, Vec<OsString>), Failure> {
        take(line.split_whitespace().map(OsString::from).collect())
    }

    #[test]
    fn both_spellings_are_taken_out() {
        for line in ["--data x --backend cuda --seed 3", "--data x --backend=cuda --seed 3"] {
            let (backend, rest) = taken(line).expect("a good line");
            assert_eq!(backend, Backend::Cuda);
            assert_eq!(rest, ["--data", "x", "--seed", "3"]);
        }
    }

    #[test]
    fn flex_unless_told() {
        assert_eq!(taken("--seed 3").expect("a good line").0, Backend::Flex);
    }

    #[test]
    fn what_follows_two_dashes_is_not_ours() {
        let (backend, rest) = taken("-- --backend cuda").expect("a good line");
        assert_eq!((backend, rest.len()), (Backend::Flex, 3));
    }

    #[test]
    fn an_unknown_name_lists_the_four() {
        let message = taken("--backend gpu").expect_err("no such backend").to_string();
        for backend in Backend::ALL {
            assert!(message.contains(backend.name()), "{message}");
        }
        assert!(taken("--backend").expect_err("no name").to_string().contains("needs a name"));
        let message = taken("--backend=CUDA").expect_err("wrong case").to_string();
        assert!(message.contains("cuda"), "{message}");
    }

    #[test]
    fn flex_is_the_plain_default() {
        assert!(Backend::Flex.features().is_empty());
        assert_eq!(
            Backend::Wgpu.features().join(" "),
            "--no-default-features --features \
             ocl-model/wgpu,ocl-loss/wgpu,ocl-train/wgpu,ocl-eval/wgpu"
        );
    }
}
