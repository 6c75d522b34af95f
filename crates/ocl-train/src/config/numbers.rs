//! Numbers as they were written: `config` makes 3 of 2.5 and 1 of `true` where a whole number is
//! asked for.

use serde::de::DeserializeOwned;
use toml::Value;

/// A key whose value is not of the type that is asked for, and what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mistyped {
    pub(super) key: String,
    pub(super) problem: String,
}

/// The values with their types, nothing rounded; a float without a fraction is a whole number.
/// `None` where something else than a number's type is wrong.
pub(super) fn typed<T: DeserializeOwned>(mut values: Value) -> Result<Option<T>, Mistyped> {
    each_leaf("", &mut values, &mut |_, value| {
        each_scalar(value, &mut |scalar| match *scalar {
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                *scalar = Value::Integer(number as i64);
            }
            _ => {}
        });
        false
    });
    let error_of = |values: &Value| values.clone().try_into::<T>().err();
    let Some(error) = error_of(&values) else { return Ok(values.try_into().ok()) };
    // The error does not name its key: it is the one whose rounding, as `config` does it, makes the
    // error another one, or none.
    let mut scalars = vec![];
    each_leaf("", &mut values, &mut |name, value| {
        each_scalar(value, &mut |_| scalars.push(name.to_owned()));
        false
    });
    for (at, key) in scalars.into_iter().enumerate() {
        let (mut rounded, mut seen, mut problem) = (values.clone(), 0, None);
        each_leaf("", &mut rounded, &mut |_, value| {
            each_scalar(value, &mut |scalar| {
                if seen == at {
                    problem = round(scalar);
                }
                seen += 1;
            });
            seen > at
        });
        let Some(problem) = problem else { continue };
        // A flag that was right is none when it is a number.
        let other = |now: &str| now != error.message() && !now.contains("expected a boolean");
        if error_of(&rounded).is_none_or(|now| other(now.message())) {
            return Err(Mistyped { key, problem });
        }
    }
    Ok(None)
}

/// Rounds a value as `config` would; says what was lost.
fn round(scalar: &mut Value) -> Option<String> {
    let (number, problem) = match *scalar {
        Value::Float(number) => (number.round() as i64, format!("{number} is no whole number")),
        Value::Boolean(flag) => (i64::from(flag), format!("{flag} is no number")),
        _ => return None,
    };
    *scalar = Value::Integer(number);
    Some(problem)
}

/// Visits what is no table, under dotted names, until `visit` says that it is enough.
fn each_leaf(
    name: &str,
    value: &mut Value,
    visit: &mut impl FnMut(&str, &mut Value) -> bool,
) -> bool {
    let Value::Table(table) = value else { return visit(name, value) };
    table.iter_mut().any(|(key, value)| {
        let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
        each_leaf(&name, value, visit)
    })
}

fn each_scalar(value: &mut Value, visit: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each_scalar(item, visit)),
        scalar => visit(scalar),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Whole {
        train: Train,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Train {
        epochs: u64,
        rate: f64,
        flag: bool,
        sides: [f32; 2],
        most: Option<usize>,
    }

    fn read(epochs: &str, rate: &str, sides: &str, more: &str) -> Result<Option<Whole>, Mistyped> {
        let text = format!(
            "[train]\nepochs = {epochs}\nrate = {rate}\nflag = true\nsides = {sides}\n{more}"
        );
        typed(toml::from_str(&text).unwrap())
    }

    #[test]
    fn whole_numbers_are_those_that_were_written() {
        for epochs in ["3", "3.0", "3e0"] {
            let train = read(epochs, "2", "[1, 0.5]", "most = 4").unwrap().unwrap().train;
            assert_eq!((train.epochs, train.rate, train.most), (3, 2.0, Some(4)));
            assert!(train.flag && train.sides == [1.0, 0.5]);
        }
    }

    #[test]
    fn what_would_be_rounded_is_named() {
        let all = ["1", "0.5", "[1, 0.5]", ""];
        for (at, value, key, says) in [
            (0, "2.5", "epochs", "2.5 is no whole number"),
            (0, "nan", "epochs", "NaN is no whole number"),
            (0, "inf", "epochs", "inf is no whole number"),
            (0, "true", "epochs", "true is no number"),
            (1, "true", "rate", "true is no number"),
            (2, "[true, 0.5]", "sides", "true is no number"),
            (3, "most = 4.9", "most", "4.9 is no whole number"),
            (3, "most = 0.5", "most", "0.5 is no whole number"),
        ] {
            let mut values = all;
            values[at] = value;
            let [epochs, rate, sides, more] = values;
            let wrong = read(epochs, rate, sides, more).unwrap_err();
            assert_eq!(wrong, Mistyped { key: format!("train.{key}"), problem: says.to_owned() });
        }
        // A word is no matter of numbers.
        assert_eq!(read("\"many\"", "1", "[1, 1]", ""), Ok(None));
    }
}
