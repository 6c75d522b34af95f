//! Named numbers of a step: what tells how a run is doing.
//!
//! Whoever computes a figure names it, `group/name`. From there it goes into `log.jsonl` under its
//! name and to TensorBoard under both, without any file in between knowing of it.

use burn::tensor::Tensor;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, SerializeMap, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What stands for the size of features that are all zero.
const LEAST: f64 = 1e-12;

/// Figures whose values are still on the device: they are read together, so that reading waits
/// once.
#[derive(Clone, Debug, Default)]
pub struct PendingFigures {
    tags: Vec<&'static str>,
    values: Vec<Tensor<1>>,
}

impl PendingFigures {
    /// Adds figures by their tags, `group/name`.
    ///
    /// # Shapes
    /// `values` `[F]`, one for each tag.
    ///
    /// # Panics
    /// If there are more or fewer values than tags.
    pub fn add(&mut self, tags: &[&'static str], values: Tensor<1>) {
        assert_eq!(tags.len(), values.dims()[0], "values of the figures {tags:?}");
        self.tags.extend(tags);
        self.values.push(values);
    }

    /// These figures behind those of `first`.
    #[must_use]
    pub fn after(self, mut first: Self) -> Self {
        first.tags.extend(self.tags);
        first.values.extend(self.values);
        first
    }

    /// Puts all values into one tensor, for [`PendingFigures::read`] to wait for nothing else.
    /// Small as the values are, they would keep larger tensors in memory.
    #[must_use]
    pub fn joined(self) -> Self {
        if self.values.len() < 2 {
            return self;
        }
        Self { tags: self.tags, values: vec![Tensor::cat(self.values, 0)] }
    }

    /// Waits for the values.
    pub fn read(self) -> Figures {
        let Self { tags, mut values } = self.joined();
        let values = values.pop().map_or_else(Vec::new, |values| {
            values.into_data().try_into_vec::<f32>().expect("figures are f32")
        });
        let tags = tags.into_iter().map(Cow::Borrowed);
        Figures { by_tag: tags.zip(values.into_iter().map(f64::from)).collect() }
    }
}

/// How far apart the features of a batch's images are: `sum_n |f_n - mean|^2 / sum_n |f_n|^2`. 0
/// when all images have the same: such an encoder is worthless, whatever its loss; 1 when their
/// mean is zero.
///
/// # Shapes
/// `[N, V, D]`, the V features of an image being apart from one another; result `[1]`.
pub(super) fn feature_spread(features: Tensor<3>) -> Tensor<1> {
    let apart = features.clone() - features.clone().mean_dim(0); // [N, V, D]
    apart.square().sum() / features.square().sum().clamp_min(LEAST)
}

/// Figures by tag, in the order in which they were added.
///
/// As JSON an object, whose keys are the tags' last parts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    by_tag: Vec<(Cow<'static, str>, f64)>,
}

impl Figures {
    /// Adds a figure, if there is one.
    pub fn push(&mut self, tag: &'static str, value: Option<f64>) {
        self.by_tag.extend(value.map(|value| (Cow::Borrowed(tag), value)));
    }

    /// Takes a figure out by its tag.
    pub fn take(&mut self, tag: &str) -> Option<f64> {
        let at = self.by_tag.iter().position(|(own, _)| own == tag)?;
        Some(self.by_tag.remove(at).1)
    }

    /// The figure of this name (the last part of its tag).
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter().find(|(tag, _)| last(tag) == name).map(|(_, value)| value)
    }

    /// Tags and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.by_tag.iter().map(|(tag, value)| (tag.as_ref(), *value))
    }
}

/// `group/name` to `name`.
fn last(tag: &str) -> &str {
    tag.rsplit('/').next().unwrap_or(tag)
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.by_tag.len()))?;
        for (tag, value) in self.iter() {
            map.serialize_entry(last(tag), &value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Figures {
    /// Groups are not written, so names are all that comes back; a value that is NaN or infinite is
    /// written as `null`, and does not.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let by_name = BTreeMap::<String, Option<f64>>::deserialize(deserializer)?;
        let present = by_name.into_iter().filter_map(|(name, value)| Some((name.into(), value?)));
        Ok(Self { by_tag: present.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn spread_is_the_share_that_differs() {
        let spread = |values: [[f32; 2]; 4]| -> f32 {
            let features = Tensor::<2>::from_data(values, &Device::default());
            feature_spread(features.reshape([4, 1, 2])).into_scalar()
        };
        assert_eq!((spread([[3.0, 4.0]; 4]), spread([[0.0; 2]; 4])), (0.0, 0.0));
        assert_eq!(spread([[1.0, 0.0], [0.0, 7.0], [-1.0, 0.0], [0.0, -7.0]]), 1.0);
        // Two and two at a right angle.
        assert_eq!(spread([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), 0.5);
    }

    #[test]
    fn figures_keep_their_order_and_come_back_by_name() {
        let device = Device::default();
        let mut heads = PendingFigures::default();
        heads.add(&["heads/spread"], Tensor::from_data([3.5], &device));
        let mut pending = PendingFigures::default();
        pending.add(&["views/b", "views/a"], Tensor::from_data([1.0, 2.0], &device));
        let mut figures = heads.after(pending).read();
        figures.push("speed/mfu", None);
        figures.push("speed/fast", Some(0.25));
        let json = serde_json::to_string(&figures).unwrap();
        assert_eq!(json, r#"{"b":1.0,"a":2.0,"spread":3.5,"fast":0.25}"#);
        let back: Figures = serde_json::from_str(r#"{"a":2.0,"b":null}"#).unwrap();
        assert_eq!((back.get("a"), back.get("b")), (Some(2.0), None));
        assert_eq!(figures.get("spread"), Some(3.5));
        assert_eq!(PendingFigures::default().read(), Figures::default());
    }
}
