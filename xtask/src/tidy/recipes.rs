//! A recipe is a claim: its header says where it comes from and what came out.

use super::{File, Finding};

const KEYS: [&str; 4] = ["source", "command", "machine", "result"];

/// Checks the header of one recipe.
pub(super) fn check(recipe: &File) -> Vec<Finding> {
    let header = recipe.text.lines().map_while(|line| line.strip_prefix('#'));
    let given: Vec<&str> = header
        .filter_map(|line| line.split_once(':'))
        .filter(|(_, value)| !value.trim().is_empty())
        .map(|(key, _)| key.trim())
        .collect();
    let missing: Vec<_> =
        KEYS.iter().filter(|key| !given.contains(key)).map(|key| format!("`# {key}:`")).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    let what = format!("the header does not state {}", missing.join(", "));
    let remedy = "begin with them, each filled in; a result may be \"not yet run\"";
    vec![Finding::error(&recipe.path, 1, what, remedy)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Vec<Finding> {
        check(&File::synthetic("recipes/a.toml", text))
    }

    const GOOD: &str = "# Three epochs on a laptop.\n# source: ours\n# command: cargo xtask x\n\
                        # machine: 2 cores,\n#   no GPU\n# result: not yet run\n\n[optim]\n";

    #[test]
    fn a_full_header_is_fine() {
        assert_eq!(checked(GOOD), []);
    }

    #[test]
    fn what_is_missing_is_named() {
        let findings = checked(&GOOD.replace("# machine: 2 cores,\n", "# machine:\n"));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].what, "the header does not state `# machine:`");
    }

    #[test]
    fn a_header_further_down_is_none() {
        assert!(checked(&format!("[optim]\n{GOOD}"))[0].what.contains("`# source:`"));
        assert_eq!(checked("").len(), 1);
    }
}
