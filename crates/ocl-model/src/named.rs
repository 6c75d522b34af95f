//! Parameters of a module by name: burn's visitors tell a parameter's place step by step, and
//! everyone who wants its name would put the steps together again.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Is shown every float parameter of a module with its dotted name, `blocks.0.attn.qkv.weight`.
pub trait NamedVisitor {
    /// Is shown one.
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>);
}

/// Changes every float parameter of a module, knowing its dotted name.
pub trait NamedMapper {
    /// Changes one.
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Shows `by` every float parameter of `module`. Names begin with `prefix`, which may be empty.
pub fn visit_named(module: &impl Module, prefix: &str, by: &mut impl NamedVisitor) {
    module.visit(&mut Walk { path: Path::under(prefix), by });
}

/// `module` with every float parameter changed by `by`. Names begin with `prefix`, which may be
/// empty.
pub fn map_named<M: Module>(module: M, prefix: &str, by: &mut impl NamedMapper) -> M {
    module.map(&mut Walk { path: Path::under(prefix), by })
}

/// The name so far, and where each of its steps begins.
struct Path {
    name: String,
    starts: Vec<usize>,
}

impl Path {
    fn under(prefix: &str) -> Self {
        Self { name: prefix.to_owned(), starts: vec![] }
    }

    fn enter(&mut self, step: &str) {
        self.starts.push(self.name.len());
        if !self.name.is_empty() && !self.name.ends_with('.') {
            self.name.push('.');
        }
        self.name.push_str(step);
    }

    fn exit(&mut self) {
        let start = self.starts.pop().expect("a step that ends has begun");
        self.name.truncate(start);
    }
}

struct Walk<'a, B> {
    path: Path,
    by: &'a mut B,
}

impl<B: NamedVisitor> ModuleVisitor for Walk<'_, B> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.by.visit(&self.path.name, param);
    }
}

impl<B: NamedMapper> ModuleMapper for Walk<'_, B> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.enter(name);
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        self.by.map(&self.path.name, param)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::{Vit, VitConfig};
    use burn::tensor::Device;

    #[test]
    fn names_are_dotted_paths_under_their_prefix() {
        struct Names(Vec<String>);
        impl NamedVisitor for Names {
            fn visit<const D: usize>(&mut self, name: &str, _: &Param<Tensor<D>>) {
                self.0.push(name.to_owned());
            }
        }
        impl NamedMapper for Names {
            fn map<const D: usize>(
                &mut self,
                name: &str,
                param: Param<Tensor<D>>,
            ) -> Param<Tensor<D>> {
                self.0.push(name.to_owned());
                param
            }
        }
        let config =
            VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 2, heads: 2, mlp_ratio: 4 };
        let vit = Vit::new(&config, 0, &Device::default()).unwrap();
        let (mut seen, mut mapped) = (Names(vec![]), Names(vec![]));
        visit_named(&vit, "", &mut seen);
        assert_eq!(seen.0[0], "cls_token");
        assert!(seen.0.iter().any(|name| name == "blocks.1.mlp.fc2.weight"), "{:?}", seen.0);
        map_named(vit, "target_encoder.", &mut mapped);
        let under = |name: &String| format!("target_encoder.{name}");
        assert_eq!(mapped.0, seen.0.iter().map(under).collect::<Vec<_>>());
    }
}
