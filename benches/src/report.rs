//! The table, as the record shows it.

use std::fmt::Write as _;

use crate::{
    options::Options,
    rows::{Bound, LEFT_OUT, Row},
    trial::{Measured, Pair},
};

/// Whether there is a figure for each row.
#[derive(PartialEq, Debug)]
pub(crate) enum Outcome {
    Complete,
    Incomplete,
}

/// The record's text behind what is said of the machine.
pub(crate) fn render(
    measured: &[Measured<'_>],
    options: &Options,
    versions: &[String],
) -> (String, Outcome) {
    let mut text = format!(
        "- beside: {}\n\nRounds: {}, of {} s each, the order alternating; server on core 0, load on core 1; {} idle connections. \
         Medians of the rounds; ratios are of figures of the same round.\n\n\
         | work | counted | beside | theirs | medusa | ratio: median | min | max | at most | holds |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        versions.join("; "),
        options.rounds,
        options.seconds,
        options.held,
    );
    let mut not_measured = String::new();
    for Measured { row, outcome } in measured {
        match outcome {
            Ok(pairs) if !pairs.is_empty() => text.push_str(&line(row, pairs)),
            Ok(_) => {
                let _ = writeln!(not_measured, "- {}: there is no figure", row.name());
            }
            Err(reason) => {
                let _ = writeln!(not_measured, "- {}: {}", row.name(), reason.trim());
            }
        }
    }
    let outcome = if not_measured.is_empty() { Outcome::Complete } else { Outcome::Incomplete };
    if outcome == Outcome::Incomplete {
        let _ = write!(text, "\n## Not measured\n\n{not_measured}");
        eprintln!("NOT MEASURED:\n{not_measured}");
    }
    text.push_str("\n## Left out\n\n");
    LEFT_OUT.iter().for_each(|it| {
        let _ = writeln!(text, "- {it}");
    });
    (text, outcome)
}

/// The median; sorts. There has to be one value at least.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let (lower, upper) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(lower, upper)
}

fn line(row: &Row, pairs: &[Pair]) -> String {
    let mut ratios: Vec<_> = pairs.iter().map(|pair| pair.ours / pair.theirs).collect();
    let ours = median(&mut pairs.iter().map(|pair| pair.ours).collect::<Vec<_>>());
    let theirs = median(&mut pairs.iter().map(|pair| pair.theirs).collect::<Vec<_>>());
    let ratio = median(&mut ratios);
    let judged = match row.at_most {
        Bound::Ratio(_) => ratio,
        Bound::Figure(_) => ours,
    };
    let holds = if judged <= row.at_most.value() { "yes" } else { "NO" };
    let aim = row.aim.map(|aim| format!("; aim {}", row.at_most.shown(aim))).unwrap_or_default();
    format!(
        "| {} | {} | {} | {} | {} | {ratio:.3} | {:.3} | {:.3} | {}{aim} | {holds} |\n",
        row.work,
        row.figure.name(),
        row.peer.name(),
        shown(theirs),
        shown(ours),
        ratios[0],
        ratios[ratios.len() - 1],
        row.at_most.shown(row.at_most.value()),
    )
}

/// A figure with as many digits as mean something.
fn shown(value: f64) -> String {
    if value.abs() < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows;

    fn check(word: &str, pairs: &[(f64, f64)], expected: &str) {
        let row = rows::named(Some(word)).unwrap()[0];
        let pairs: Vec<_> = pairs.iter().map(|&(ours, theirs)| Pair { ours, theirs }).collect();
        assert!(line(row, &pairs).ends_with(expected), "{}", line(row, &pairs));
    }

    #[test]
    fn a_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&mut [4.0]), 4.0);
    }

    #[test]
    fn a_row_holds_by_the_median_of_its_pairs() {
        let worse = (9.0, 4.0);
        check(
            "lighttpd",
            &[(2.0, 4.0), (3.0, 4.0), worse],
            "| 4.00 | 3.00 | 0.750 | 0.500 | 2.250 | 1.00; aim 0.85 | yes |\n",
        );
        check(
            "lighttpd",
            &[(2.0, 4.0), worse, worse],
            "| 4.00 | 9.00 | 2.250 | 0.500 | 2.250 | 1.00; aim 0.85 | NO |\n",
        );
        // A bound on the figure itself holds whatever the ratio is.
        check(
            "memory",
            &[(500.0, 250.0)],
            "| 250 | 500 | 2.000 | 2.000 | 2.000 | 513 by itself; aim 100 by itself | yes |\n",
        );
        check("memory", &[(514.0, 600.0)], "| 513 by itself; aim 100 by itself | NO |\n");
    }

    #[test]
    fn what_was_not_measured_is_told() {
        let row = rows::named(Some("lighttpd")).unwrap()[0];
        let options = Options { rounds: 1, seconds: 1, held: 1, only: None };
        let render = |outcome| render(&[Measured { row, outcome }], &options, &[]);
        let (text, outcome) = render(Err("there is no lighttpd".to_owned()));
        assert!(text.contains("beside lighttpd: there is no lighttpd"), "{text}");
        assert_eq!(outcome, Outcome::Incomplete);
        let (text, outcome) = render(Ok(vec![Pair { ours: 1.0, theirs: 1.0 }]));
        assert!(text.contains("| 1.000 |") && !text.contains("Not measured"), "{text}");
        assert_eq!(outcome, Outcome::Complete);
    }
}
