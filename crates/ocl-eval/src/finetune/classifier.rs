//! An encoder with a head: what fine-tuning trains.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use ocl_data::{Draws, Purpose};
use ocl_model::{HostTensor, LayerNorm, Linear, Pooling, Vit, WeightsError, apply_state, state_of};

/// `logits = head(pool(encoder(x)))`: the class token after the encoder's norm, or the mean of the
/// patch tokens after a norm of its own (MAE, arXiv 2111.06377, appendix A.1), which takes the
/// encoder's place.
#[derive(Module, Debug)]
pub(crate) struct Classifier {
    pub(crate) vit: Vit,
    fc_norm: Option<LayerNorm>,
    head: Linear,
    #[module(skip)]
    drop_path: f64,
}

/// Some images of a step's batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    /// The run's seed.
    pub(crate) seed: u64,
    /// The step, from 0.
    pub(crate) step: u64,
    /// Images of the whole batch.
    pub(crate) batch: usize,
    /// The images' places in it.
    pub(crate) places: &'a [usize],
}

impl Classifier {
    /// A classifier on an encoder that lies on `device`: a head of almost nothing, `Normal(0,
    /// 2e-5)` as in MAE, so that every class begins as likely.
    pub(crate) fn new(
        vit: Vit,
        pool: Pooling,
        classes: usize,
        drop_path: f64,
        seed: u64,
        device: &Device,
    ) -> Self {
        let width = vit.config().width;
        let mut draws = Draws::new(seed, 0, 0, Purpose::Head);
        let weight = (0..width * classes).map(|_| (2e-5 * draws.normal()) as f32).collect();
        let param = |values: Vec<f32>| {
            let length = values.len();
            Param::from_tensor(Tensor::<1>::from_data(TensorData::new(values, [length]), device))
        };
        let weight = TensorData::new::<f32, _>(weight, [width, classes]);
        // Weights that were fine-tuned before bring a norm of this kind.
        let (vit, own) = vit.split_norm_after_pooling();
        let fresh = || LayerNorm { weight: param(vec![1.0; width]), bias: param(vec![0.0; width]) };
        let fc_norm = (pool == Pooling::Mean).then(|| own.unwrap_or_else(fresh));
        let head = Linear {
            weight: Param::from_tensor(Tensor::from_data(weight, device)),
            bias: param(vec![0.0; classes]),
        };
        Self { vit, fc_norm, head, drop_path }
    }

    /// `[N, K, D]` tokens to `[N, C]` logits. In a step, residual branches are left out as it says;
    /// else none is.
    pub(crate) fn logits(&self, tokens: Tensor<3>, step: Option<Step<'_>>) -> Tensor<2> {
        let [n, k, d] = tokens.dims();
        let branches = step.map_or(vec![], |step| self.branches(step, &tokens.device()));
        let x = self.vit.encode_branches(tokens, &branches); // [N, 1+K, D]
        let cls = usize::from(self.vit.has_cls_token());
        let pooled = match &self.fc_norm {
            Some(norm) => norm.forward(x.narrow(1, cls, k).mean_dim(1)), // [N, 1, D]
            None if cls == 0 => self.vit.final_norm(x).mean_dim(1),      // [N, 1, D]
            None => self.vit.final_norm(x.narrow(1, 0, 1)),              // [N, 1, D]
        };
        self.head.forward(pooled.reshape([n, d])) // [N, C]
    }

    /// Stochastic depth: what each branch of each block is multiplied by, `[N]`; a branch is left
    /// out with a probability that rises evenly from 0 at the first block, and counts more where it
    /// is not.
    fn branches(&self, step: Step<'_>, device: &Device) -> Vec<Option<[Tensor<1>; 2]>> {
        let Step { seed, step, batch, places } = step;
        let depth = self.vit.config().depth;
        let of_block = |block: usize| {
            let drop = self.drop_path * block as f64 / (depth - 1).max(1) as f64;
            (drop > 0.0).then(|| {
                [0, 1].map(|branch| {
                    let mut draws = Draws::new(
                        seed,
                        step,
                        (2 * block + branch) as u64,
                        Purpose::StochasticDepth,
                    );
                    let kept = (1.0 / (1.0 - drop)) as f32;
                    let of_batch: Vec<f32> =
                        (0..batch).map(|_| if draws.unit() < drop { 0.0 } else { kept }).collect();
                    let values: Vec<f32> = places.iter().map(|&place| of_batch[place]).collect();
                    Tensor::from_data(TensorData::new(values, [places.len()]), device)
                })
            })
        };
        (0..depth).map(of_block).collect()
    }

    /// What was trained, apart: the encoder, its norm where the pooling wants it, and the head.
    pub(crate) fn encoder_and_head(&self) -> (Vit, Linear) {
        let vit = self.vit.clone();
        let vit = match &self.fc_norm {
            Some(norm) => vit.with_norm_after_pooling(norm.clone()),
            None => vit,
        };
        (vit, self.head.clone())
    }

    /// Parameters on the host under timm's names; an encoder's norm that the pooling has replaced
    /// is left out.
    pub(crate) fn state(&self) -> BTreeMap<String, HostTensor> {
        let mut state = state_of(&self.vit);
        let host = |tensor: Tensor<1>| {
            let shape = tensor.dims().to_vec();
            HostTensor { shape, values: values(tensor) }
        };
        if let Some(norm) = &self.fc_norm {
            for name in ["norm.weight", "norm.bias"] {
                state.remove(name);
            }
            state.insert("fc_norm.weight".to_owned(), host(norm.weight.val()));
            state.insert("fc_norm.bias".to_owned(), host(norm.bias.val()));
        }
        let weight = self.head.weight.val().transpose(); // [C, D]
        let shape = weight.dims().to_vec();
        let weight = HostTensor { shape, values: values(weight) };
        state.insert("head.weight".to_owned(), weight);
        state.insert("head.bias".to_owned(), host(self.head.bias.val()));
        state
    }

    /// The classifier with the parameters of a [`Classifier::state`].
    ///
    /// # Errors
    /// When names or shapes differ.
    pub(crate) fn with_state(
        self,
        mut state: BTreeMap<String, HostTensor>,
    ) -> Result<Self, WeightsError> {
        let mut own = self.state();
        let taken: Vec<String> = own
            .keys()
            .filter(|name| name.starts_with("head.") || name.starts_with("fc_norm."))
            .cloned()
            .collect();
        let mut head = BTreeMap::new();
        for name in taken {
            let expected = own.remove(&name).map(|tensor| tensor.shape).unwrap_or_default();
            match state.remove(&name) {
                Some(tensor) if tensor.shape == expected => drop(head.insert(name, tensor.values)),
                found => {
                    let shapes: Vec<_> = found
                        .iter()
                        .map(|t| (name.clone(), expected.clone(), t.shape.clone()))
                        .collect();
                    let missing = if found.is_none() { vec![name] } else { vec![] };
                    return Err(WeightsError::Mismatch { missing, unexpected: vec![], shapes });
                }
            }
        }
        if self.fc_norm.is_some() {
            // The encoder still has the norm that nobody reads.
            let unread = state_of(&self.vit);
            state.extend(unread.into_iter().filter(|(name, _)| name.starts_with("norm.")));
        }
        let Self { vit, fc_norm, head: linear, drop_path } = self;
        let vit = apply_state(vit, state)?;
        let mut vector = |name: &str, param: Param<Tensor<1>>| {
            let values = head.remove(name).expect("taken above");
            param.map(|old| tracked(&old, TensorData::new(values, old.dims())))
        };
        let fc_norm = fc_norm.map(|norm| LayerNorm {
            weight: vector("fc_norm.weight", norm.weight),
            bias: vector("fc_norm.bias", norm.bias),
        });
        let bias = vector("head.bias", linear.bias);
        let matrix = head.remove("head.weight").expect("taken above");
        let weight = linear.weight.map(|old| {
            let [d, c] = old.dims();
            let host = Tensor::<2>::from_data(TensorData::new(matrix, [c, d]), &Device::default());
            tracked(&old, TensorData::new(values(host.transpose()), [d, c]))
        });
        Ok(Self { vit, fc_norm, head: Linear { weight, bias }, drop_path })
    }
}

/// A parameter's new value, where and as the old one was.
fn tracked<const D: usize>(old: &Tensor<D>, data: TensorData) -> Tensor<D> {
    let new = Tensor::from_data(data, &old.device());
    if old.is_require_grad() { new.require_grad() } else { new }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("parameters are f32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocl_model::VitConfig;

    fn classifier(pool: Pooling, seed: u64, drop_path: f64) -> Classifier {
        let config =
            VitConfig { image_px: 8, patch_px: 4, width: 8, depth: 2, heads: 2, mlp_ratio: 4 };
        let device = Device::default().autodiff();
        let vit = Vit::new(&config, seed, &device).unwrap();
        Classifier::new(vit, pool, 3, drop_path, seed, &device)
    }

    fn tokens() -> Tensor<3> {
        let values: Vec<f32> = (0..5 * 4 * 8).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_data(TensorData::new(values, [5, 4, 8]), &Device::default().autodiff())
    }

    #[test]
    fn parameters_go_to_the_host_and_back() {
        for pool in [Pooling::Cls, Pooling::Mean] {
            let (one, other) = (classifier(pool, 1, 0.0), classifier(pool, 2, 0.0));
            assert_ne!(one.state(), other.state());
            let again = other.with_state(one.state()).unwrap();
            assert_eq!(again.state(), one.state());
            let (a, b) = (one.logits(tokens(), None), again.logits(tokens(), None));
            assert_eq!(values(a.inner()), values(b.inner()));
            assert_eq!(one.state().contains_key("fc_norm.weight"), pool == Pooling::Mean);
            assert_eq!(one.state()["head.weight"].shape, [3, 8]);
        }
        let mut state = classifier(Pooling::Mean, 1, 0.0).state();
        state.remove("head.bias");
        let error = classifier(Pooling::Mean, 1, 0.0).with_state(state).unwrap_err();
        assert!(error.to_string().contains("missing head.bias"));
    }

    #[test]
    fn encoder_and_head_apart_give_the_same_logits() {
        let bare = classifier(Pooling::Mean, 1, 0.5);
        let bare = Classifier { vit: bare.vit.without_cls_token(), ..bare };
        for (pool, whole) in [
            (Pooling::Cls, classifier(Pooling::Cls, 1, 0.5)),
            (Pooling::Mean, classifier(Pooling::Mean, 1, 0.5)),
            (Pooling::Mean, bare),
        ] {
            let (vit, head) = whole.encoder_and_head();
            assert_eq!(vit.usual_pooling(), pool);
            let apart = head.forward(vit.pooled(tokens(), pool));
            let difference = (apart - whole.logits(tokens(), None)).abs().max();
            assert!(difference.into_scalar::<f32>() < 1e-6, "{pool}");
        }
    }

    #[test]
    fn a_fine_tuned_encoder_can_be_fine_tuned_again() {
        let (vit, _) = classifier(Pooling::Mean, 1, 0.0).encoder_and_head();
        let feature = vit.pooled(tokens(), Pooling::Mean);
        for pool in [Pooling::Cls, Pooling::Mean] {
            let device = Device::default().autodiff();
            let again = Classifier::new(vit.clone(), pool, 3, 0.0, 2, &device);
            let state = again.state();
            let again = again.with_state(state).unwrap();
            if pool == Pooling::Mean {
                let expected = values(again.head.forward(feature.clone()));
                assert_eq!(values(again.logits(tokens(), None)), expected);
            }
        }
    }

    #[test]
    fn branches_are_left_out_by_the_step_alone() {
        let model = classifier(Pooling::Mean, 1, 0.5);
        let all: Vec<usize> = (0..1000).collect();
        let of = |step, places| Step { seed: 0, step, batch: 1000, places };
        let places = &all[..tokens().dims()[0]];
        let run = |step| values(model.logits(tokens(), step).inner());
        assert_eq!(run(Some(of(3, places))), run(Some(of(3, places))));
        assert_ne!(run(Some(of(3, places))), run(Some(of(4, places))));
        assert_ne!(run(Some(of(3, places))), run(None));
        let factors = model.branches(of(0, &all), &Device::default());
        let some = model.branches(of(0, &all[200..300]), &Device::default());
        let of_some = values(some[1].clone().unwrap()[0].clone());
        assert_eq!(of_some, values(factors[1].clone().unwrap()[0].clone())[200..300]);
        assert!(factors[0].is_none(), "the first block is never left out");
        let last = values(factors[1].clone().unwrap()[0].clone());
        let kept = last.iter().filter(|v| **v == 2.0).count();
        assert!((430..570).contains(&kept) && last.iter().all(|v| *v == 0.0 || *v == 2.0));
    }
}
