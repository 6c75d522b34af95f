//! Which of a file's networks is taken.

use thiserror::Error;

/// The tensor by which an encoder is known.
pub(super) const KERNEL: &str = "patch_embed.proj.weight";

/// No network answers to the prefix that was asked for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no encoder in it is called `{wanted}`; there is {found}")]
pub struct PrefixError {
    /// What was asked for.
    pub wanted: String,
    /// The encoders that there are.
    pub found: String,
}

/// An encoder in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    /// Keys of the dictionaries around it, joined by dots.
    pub(super) within: String,
    /// What stands before `patch_embed` in its names: nothing, or words that end with a dot.
    pub(super) prefix: String,
}

/// The network that is taken, and those that are not.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Its place among the networks of the file.
    pub(super) index: usize,
    pub(super) network: Network,
    /// Names of the others.
    pub(super) others: Vec<String>,
}

impl Network {
    /// The encoder that a name in the dictionary `within` tells of, if it does.
    pub(super) fn told_by(within: &str, name: &str) -> Option<Self> {
        let prefix = name.strip_suffix(KERNEL)?;
        let whole = prefix.is_empty() || prefix.ends_with('.');
        whole.then(|| Self { within: within.to_owned(), prefix: prefix.to_owned() })
    }

    /// What users call it: keys and prefix, joined by dots.
    pub(super) fn name(&self) -> String {
        let parts = [self.within.as_str(), self.prefix.trim_end_matches('.')];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join(".")
    }

    /// How far it is from being the one that is meant for use: averages of weights come first, as
    /// in timm, then teachers and targets; a momentum encoder serves the training of a base encoder
    /// alone; what only looks like an encoder comes last.
    fn rank(&self) -> (usize, bool, usize) {
        const RANKS: [&[&str]; 5] = [
            &["ema", "average", "averaged", "avg", "swa", "polyak", "shadow"],
            &["teacher"],
            &["target"],
            &["base", "query", "q"],
            &[], // what says nothing of its part
        ];
        const TRAINED: &[&str] = &["student", "online"];
        const SERVANTS: &[&str] = &["momentum", "key", "k", "m"];
        const NONE: &[&str] = &[
            "optimizer",
            "optimizers",
            "optim",
            "opt",
            "exp",
            "grad",
            "grads",
            "predictor",
            "decoder",
            "discriminator",
            "tokenizer",
            "criterion",
            "loss",
        ];
        let name = self.name();
        let words = words(&name);
        let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
        let best = RANKS.iter().position(|list| any(list));
        let rank = if any(NONE) {
            RANKS.len() + 2
        } else if let Some(rank) = best {
            rank
        } else if any(TRAINED) {
            RANKS.len()
        } else if any(SERVANTS) {
            RANKS.len() + 1
        } else {
            RANKS.len() - 1
        };
        (rank, !any(&["backbone"]), name.split('.').filter(|part| !part.is_empty()).count())
    }

    /// Whether it is what `wanted` means, at four grades of looseness.
    fn answers(&self, wanted: &str, grade: usize) -> bool {
        let name = self.name();
        match grade {
            0 => name == wanted,
            1 => self.within == wanted || self.prefix.trim_end_matches('.') == wanted,
            2 => format!(".{name}.").contains(&format!(".{wanted}.")),
            _ => !wanted.is_empty() && name.contains(wanted),
        }
    }
}

/// Of several networks the one that `wanted` names, else the one that is meant for use; `None` where
/// there is none at all.
pub(super) fn take(
    networks: &[Network],
    wanted: Option<&str>,
) -> Result<Option<Taken>, PrefixError> {
    let mut among: Vec<usize> = (0..networks.len()).collect();
    if let Some(wanted) = wanted {
        let trimmed = wanted.trim_matches('.');
        let of = |grade| {
            let fits = |&index: &usize| networks[index].answers(trimmed, grade);
            (0..networks.len()).filter(fits).collect::<Vec<_>>()
        };
        among = (0..4).map(of).find(|found| !found.is_empty()).unwrap_or_default();
        if among.is_empty() {
            let names: Vec<_> = networks.iter().map(|network| quoted(&network.name())).collect();
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(PrefixError { wanted: wanted.to_owned(), found });
        }
    }
    let best = among.into_iter().min_by_key(|&index| (networks[index].rank(), index));
    Ok(best.map(|index| Taken {
        index,
        network: networks[index].clone(),
        others: (0..networks.len())
            .filter(|&other| other != index)
            .map(|other| networks[other].name())
            .collect(),
    }))
}

fn quoted(name: &str) -> String {
    if name.is_empty() { "one without a prefix".to_owned() } else { format!("`{name}`") }
}

/// Words of a name, in small letters: `modelEMA`, `model_ema` and `model.ema` have the same.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut small = false;
    for letter in name.chars() {
        if !letter.is_alphanumeric() || (letter.is_uppercase() && small) {
            words.push(String::new());
        }
        small = letter.is_lowercase();
        if letter.is_alphanumeric() {
            words.last_mut().expect("never empty").extend(letter.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(name: &str) -> Network {
        Network { within: name.to_owned(), prefix: String::new() }
    }

    fn taken(names: &[&str], wanted: Option<&str>) -> Result<String, PrefixError> {
        let networks: Vec<Network> = names.iter().map(|name| network(name)).collect();
        Ok(take(&networks, wanted)?.map_or("none".to_owned(), |taken| taken.network.name()))
    }

    #[test]
    fn of_several_networks_the_one_meant_for_use_is_taken() {
        for (used, others) in [
            ("teacher", &["student"][..]),
            ("state_dict.teacher_backbone", &["state_dict.student_backbone"]),
            ("model_ema", &["model"]),
            ("modelEMA", &["model"]),
            ("ema.state_dict", &["model.state_dict"]),
            ("state_dict_ema", &["state_dict"]),
            ("ema", &["teacher", "student"]),
            ("averaged_model.module", &["model"]),
            ("target_encoder", &["encoder", "predictor"]),
            ("target_network.backbone", &["online_network.backbone"]),
            ("module.base_encoder", &["module.momentum_encoder"]),
            ("encoder_q", &["encoder_k"]),
            ("backbone", &["backbone_momentum"]),
            ("state_dict.model", &["optimizer.exp_avg"]),
            ("", &["encoder", "predictor"]),
            ("model.backbone", &["model.decoder"]),
        ] {
            let mut names = others.to_vec();
            names.insert(names.len() / 2, used);
            assert_eq!(taken(&names, None).unwrap(), used, "{names:?}");
            names.reverse();
            assert_eq!(taken(&names, None).unwrap(), used, "{names:?}");
        }
        assert_eq!(taken(&[], None).unwrap(), "none");
    }

    #[test]
    fn a_prefix_chooses() {
        let names = ["state_dict.student_backbone", "state_dict.teacher_backbone", "model"];
        for (wanted, used) in [
            ("state_dict.student_backbone.", names[0]),
            ("student_backbone", names[0]),
            ("student", names[0]),
            ("state_dict", names[1]),
            ("model", "model"),
        ] {
            assert_eq!(taken(&names, Some(wanted)).unwrap(), used, "{wanted}");
        }
        let error = taken(&names, Some("head")).unwrap_err().to_string();
        assert!(error.contains("`head`") && names.iter().all(|name| error.contains(name)));
        assert_eq!(taken(&["", "ema"], Some("")).unwrap(), "");
    }
}
