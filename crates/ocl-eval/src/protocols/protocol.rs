//! The closed list of protocols: their names, their sources, their checks, and one match that runs
//! them.

use burn::tensor::Device;

use super::centroid::centroid;
use super::clustering::clustering;
use super::few_shot::few_shot;
use super::knn::knn;
use super::linear_cached::linear_cached;
use super::linear_mae::linear_mae;
use super::measured::Measured;
use super::recipe::EvalRecipe;
use super::retrieval::retrieval;
use super::robustness::robustness;
use super::shifted::shifted;
use crate::error::EvalError;
use crate::features::Material;
use crate::progress::Progress;

/// A way to measure a frozen representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// Linear probe on cached features, rates and decays swept.
    LinearCached,
    /// Linear probe as in MAE, augmented.
    LinearMae,
    /// Weighted nearest neighbours.
    Knn,
    /// Logistic regression on few labels.
    FewShot,
    /// Nearest class mean.
    Centroid,
    /// Images of a class found by an image of it.
    Retrieval,
    /// k-means against the labels.
    Clustering,
    /// A clean probe on corrupted images.
    Robustness,
    /// A probe on folders of shifted data.
    Shifted,
}

impl Protocol {
    /// Every protocol, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::LinearCached,
        Self::LinearMae,
        Self::Knn,
        Self::FewShot,
        Self::Centroid,
        Self::Retrieval,
        Self::Clustering,
        Self::Robustness,
        Self::Shifted,
    ];

    /// Its name on the command line, in recipes and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::LinearCached => "linear",
            Self::LinearMae => "linear-mae",
            Self::Knn => "knn",
            Self::FewShot => "few-shot",
            Self::Centroid => "centroid",
            Self::Retrieval => "retrieval",
            Self::Clustering => "clustering",
            Self::Robustness => "robustness",
            Self::Shifted => "shifted",
        }
    }

    /// What it does and where it comes from, in a line.
    pub fn says(self) -> &'static str {
        match self {
            Self::LinearCached => {
                "linear probe on cached centre views; rate and decay swept on held-out data (after DINOv2)"
            }
            Self::LinearMae => "linear probe, augmented, batch norm, LARS (MAE, arXiv 2111.06377)",
            Self::Knn => "weighted k-NN by cosine (Wu et al., arXiv 1805.01978; DINO)",
            Self::FewShot => {
                "logistic regression on few labels, L-BFGS (as in MSN, arXiv 2204.07141)"
            }
            Self::Centroid => "nearest class mean by cosine (as in Snell et al., arXiv 1703.05175)",
            Self::Retrieval => "test images find test images (Oh Song et al., arXiv 1511.06452)",
            Self::Robustness => {
                "clean probe, corrupted test images (strengths of ImageNet-C, arXiv 1903.12261; occlusion)"
            }
            Self::Shifted => "clean probe on shifted data (as ImageNet-A, -R, -Sketch, -V2, -C)",
            Self::Clustering => "k-means against labels; NMI, ARI (as in SCAN, arXiv 2005.12320)",
        }
    }

    /// The protocol of this name.
    ///
    /// # Errors
    /// [`EvalError::Setting`] listing all names.
    pub fn named(name: &str) -> Result<Self, EvalError> {
        Self::ALL.into_iter().find(|protocol| protocol.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            let reason = format!("no protocol is called `{name}`; there are {known}");
            EvalError::Setting { setting: "protocols", reason }
        })
    }

    /// Says what is wrong with the recipe's constants for this protocol, if anything is.
    ///
    /// # Errors
    /// [`EvalError::Setting`] naming the first that cannot work.
    pub fn check(self, recipe: &EvalRecipe) -> Result<(), EvalError> {
        match self {
            Self::LinearCached => recipe.linear.check(),
            Self::LinearMae => recipe.linear_mae.check(),
            Self::Knn => recipe.knn.check(),
            Self::FewShot => recipe.few_shot.check(),
            Self::Centroid => Ok(()),
            Self::Retrieval => recipe.retrieval.check(),
            Self::Clustering => recipe.clustering.check(),
            Self::Robustness => recipe.robustness.check(),
            Self::Shifted if recipe.shifted.is_empty() => Err(EvalError::Setting {
                setting: "protocols",
                reason: "shifted needs a mapping file, --sets FILE".to_owned(),
            }),
            Self::Shifted => Ok(()),
        }
    }

    /// Measures a subject's features, over `seeds` where the protocol trains or draws.
    ///
    /// # Errors
    /// When a setting cannot work, images cannot be read, training diverges or the device fails.
    pub fn run(
        self,
        recipe: &EvalRecipe,
        material: &Material<'_>,
        seeds: &[u64],
        device: &Device,
        progress: &mut Progress,
    ) -> Result<Measured, EvalError> {
        let (splits, classes) = (material.splits, material.data.classes());
        let (train, test) = (&splits.train, &splits.test);
        match self {
            Self::LinearCached => {
                linear_cached(train, test, classes, &recipe.linear, seeds, device, progress)
            }
            Self::LinearMae => linear_mae(material, &recipe.linear_mae, seeds, device, progress),
            Self::Knn => knn(train, test, classes, &recipe.knn, device, progress),
            Self::FewShot => few_shot(train, test, classes, &recipe.few_shot, seeds, progress),
            Self::Centroid => Ok(centroid(train, test, classes, &recipe.centroid)),
            Self::Retrieval => Ok(retrieval(test, &recipe.retrieval, progress)),
            Self::Clustering => Ok(clustering(test, classes, &recipe.clustering, seeds, progress)),
            Self::Robustness => {
                robustness(material, &recipe.robustness, &recipe.linear, device, progress)
            }
            Self::Shifted => shifted(material, &recipe.shifted, &recipe.linear, device, progress),
        }
    }
}
