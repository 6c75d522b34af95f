//! Predictions as text, CSV and JSON.

use std::fmt;
use std::str::FromStr;

use serde_json::json;

use super::classify::Predicted;
use crate::error::EvalError;

/// How predictions are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PredictionFormat {
    /// A line for each image, for readers.
    #[default]
    Text,
    /// Comma-separated values: a line for each image and answer, under a line of headings.
    Csv,
    /// A JSON object a line for each image.
    Json,
}

impl PredictionFormat {
    /// The first line of the file, if this format has one; lines end with a line break.
    pub fn heading(self) -> &'static str {
        match self {
            Self::Csv => "image,rank,class,label,probability,error\n",
            Self::Text | Self::Json => "",
        }
    }

    /// What is written of an image: whole lines.
    pub fn lines(self, predicted: &Predicted) -> String {
        match self {
            Self::Text => text(predicted),
            Self::Csv => csv(predicted),
            Self::Json => json_line(predicted),
        }
    }
}

fn text(predicted: &Predicted) -> String {
    let answers: Vec<String> = predicted
        .answers
        .iter()
        .map(|answer| format!("{} {:.1} %", answer.name, f64::from(answer.probability) * 100.0))
        .collect();
    let says = match &predicted.error {
        Some(error) => format!("cannot be read: {error}"),
        None => answers.join(", "),
    };
    format!("{}: {says}\n", predicted.image)
}

fn csv(predicted: &Predicted) -> String {
    let image = field(&predicted.image);
    if let Some(error) = &predicted.error {
        return format!("{image},,,,,{}\n", field(error));
    }
    let line = |(rank, answer): (usize, &super::Answer)| {
        let (name, label, probability) = (field(&answer.name), answer.class, answer.probability);
        format!("{image},{},{name},{label},{probability},\n", rank + 1)
    };
    predicted.answers.iter().enumerate().map(line).collect()
}

fn json_line(predicted: &Predicted) -> String {
    let answers: Vec<_> = predicted
        .answers
        .iter()
        .map(|answer| {
            let (class, label) = (&answer.name, answer.class);
            json!({ "class": class, "label": label, "probability": answer.probability })
        })
        .collect();
    let mut line = json!({ "image": predicted.image, "answers": answers });
    if let Some(error) = &predicted.error {
        line["error"] = json!(error);
    }
    format!("{line}\n")
}

/// A value of a CSV file, quoted where it must be (RFC 4180).
fn field(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

impl fmt::Display for PredictionFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Csv => "csv",
            Self::Json => "json",
        })
    }
}

impl FromStr for PredictionFormat {
    type Err = EvalError;

    fn from_str(name: &str) -> Result<Self, EvalError> {
        [Self::Text, Self::Csv, Self::Json]
            .into_iter()
            .find(|format| format.to_string() == name)
            .ok_or_else(|| EvalError::Setting {
                setting: "format",
                reason: format!("`{name}` is none of text, csv, json"),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::Answer;

    fn predicted() -> [Predicted; 2] {
        let answer =
            |class, name: &str, probability| Answer { class, name: name.to_owned(), probability };
        let answers = vec![answer(2, "cat, tabby", 0.75), answer(0, "dog", 0.25)];
        let bad = Some("too \"short\"".to_owned());
        [
            Predicted { image: "a.jpg".to_owned(), answers, error: None },
            Predicted { image: "b.jpg".to_owned(), answers: vec![], error: bad },
        ]
    }

    fn written(format: PredictionFormat) -> String {
        predicted().iter().map(|one| format.lines(one)).collect()
    }

    #[test]
    fn each_format_says_name_and_probability() {
        assert_eq!(
            written(PredictionFormat::Text),
            "a.jpg: cat, tabby 75.0 %, dog 25.0 %\nb.jpg: cannot be read: too \"short\"\n"
        );
        assert_eq!(
            written(PredictionFormat::Csv),
            "a.jpg,1,\"cat, tabby\",2,0.75,\na.jpg,2,dog,0,0.25,\nb.jpg,,,,,\"too \"\"short\"\"\"\n"
        );
        let json = written(PredictionFormat::Json);
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            lines[0]["answers"][1],
            json!({ "class": "dog", "label": 0, "probability": 0.25 })
        );
        assert_eq!(lines[1]["error"], "too \"short\"");
    }

    #[test]
    fn formats_have_names() {
        for format in [PredictionFormat::Text, PredictionFormat::Csv, PredictionFormat::Json] {
            assert_eq!(format.to_string().parse::<PredictionFormat>().unwrap(), format);
        }
        assert!("xml".parse::<PredictionFormat>().unwrap_err().to_string().contains("text, csv"));
    }
}
