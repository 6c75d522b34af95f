//! The command `compare-results`: the newest result of each protocol and subject in several
//! `results.jsonl`, side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::Value;

use crate::print;

/// A row of the table: protocol, subject with its pooling, figure.
type Row = (String, String, String);

/// Figures of one file by row; what they were measured on.
#[derive(Default)]
struct Column {
    figures: BTreeMap<Row, String>,
    /// Test data's digests and protocols' constants, to say when two columns cannot be compared.
    data: BTreeMap<Row, String>,
    order: Vec<Row>,
}

/// Options of `compare-results`.
#[derive(Args, Debug)]
pub(crate) struct CompareResultsArgs {
    /// Run folders, or results.jsonl files
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

/// Prints the table.
pub(crate) fn run(args: &CompareResultsArgs) -> Result<()> {
    let mut columns = Vec::new();
    for path in &args.paths {
        let file = if path.is_dir() { path.join("results.jsonl") } else { path.clone() };
        columns.push((title(path), read(&file)?));
    }
    print(&table(&columns));
    Ok(())
}

/// The run's name, whether its folder or its file was given.
fn title(path: &Path) -> String {
    let folder = if path.is_dir() { Some(path) } else { path.parent() };
    let name = folder.and_then(Path::file_name).unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}

fn read(file: &Path) -> Result<Column> {
    let text =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut column = Column::default();
    for (number, line) in text.lines().enumerate() {
        let record: Value = serde_json::from_str(line)
            .with_context(|| format!("{}:{}: not a line of results", file.display(), number + 1))?;
        // Lines of older versions have no list of figures.
        let Some(scores) = record["scores"].as_array() else { continue };
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let pool = record["pool"].as_str().map_or(String::new(), |pool| format!(", {pool}"));
        for score in scores {
            let (Some(name), Some(mean)) = (score["name"].as_str(), score["mean"].as_f64()) else {
                continue;
            };
            let row = (text("protocol"), text("subject") + &pool, name.to_owned());
            let several = score["values"].as_array().is_some_and(|values| values.len() > 1);
            let deviation = score["deviation"].as_f64().filter(|_| several);
            let deviation = deviation.map_or(String::new(), |d| format!(" ±{:.2}", d * 100.0));
            if column
                .figures
                .insert(row.clone(), format!("{:.2}{deviation}", mean * 100.0))
                .is_none()
            {
                column.order.push(row.clone());
            }
            let data = &record["data"];
            let images = (&data["train_images"], &data["test_images"]);
            column.data.insert(row, format!("{} {images:?}", data["digests"]));
        }
    }
    Ok(column)
}

/// The table in percent, rows in the order in which they were first measured.
fn table(columns: &[(String, Column)]) -> String {
    let mut rows: Vec<&Row> = Vec::new();
    for row in columns.iter().flat_map(|(_, column)| &column.order) {
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    let width =
        columns.iter().map(|(title, _)| title.chars().count()).max().unwrap_or(0).max(13) + 2;
    let mut text = format!("{:<40}", "percent");
    columns.iter().for_each(|(title, _)| text += &format!("{title:>width$}"));
    text.push('\n');
    let mut last = (String::new(), String::new());
    let mut differs = false;
    for row in rows {
        let (protocol, subject, name) = row;
        if (protocol, subject) != (&last.0, &last.1) {
            last = (protocol.clone(), subject.clone());
            text += &format!("\n{protocol}: {subject}\n");
        }
        let mut data = columns.iter().filter_map(|(_, column)| column.data.get(row));
        let first = data.next();
        let other = data.any(|data| Some(data) != first);
        differs |= other;
        text += &format!("  {:<38}", format!("{name}{}", if other { " *" } else { "" }));
        for (_, column) in columns {
            text += &format!("{:>width$}", column.figures.get(row).map_or("-", String::as_str));
        }
        text.push('\n');
    }
    if differs {
        text += "\n* measured on different data or numbers of images: not comparable\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(lines: &str) -> Column {
        let file = std::env::temp_dir().join(format!(
            "ocl-compare-{}-{}",
            std::process::id(),
            lines.len()
        ));
        fs::write(&file, lines).expect("a file");
        let column = read(&file).expect("results");
        fs::remove_file(&file).expect("removed");
        column
    }

    fn line(mean: f64, digest: &str) -> String {
        format!(
            r#"{{"protocol":"knn","subject":"trained encoder","pool":"cls","data":{{"digests":["{digest}"]}},
            "scores":[{{"name":"top-1","mean":{mean},"deviation":0.01,"values":[1,2]}}]}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn the_newest_figures_stand_side_by_side() {
        let a = column(&format!("{}\n{}\n{{\"top1\":1}}", line(0.5, "x"), line(0.75, "x")));
        let text = table(&[("a".into(), a), ("b".into(), column(&line(0.5, "yy")))]);
        assert!(text.contains("knn: trained encoder, cls"), "{text}");
        assert!(text.contains("75.00 ±1.00") && text.contains("50.00 ±1.00"), "{text}");
        assert!(text.contains("top-1 *") && text.contains("not comparable"), "{text}");
    }

    #[test]
    fn a_line_that_is_no_json_is_named() {
        let file = std::env::temp_dir().join(format!("ocl-compare-bad-{}", std::process::id()));
        fs::write(&file, "{}\nnonsense").expect("a file");
        let failure = read(&file).err().expect("refused");
        fs::remove_file(&file).expect("removed");
        assert!(failure.to_string().contains(":2:"), "{failure}");
    }
}
