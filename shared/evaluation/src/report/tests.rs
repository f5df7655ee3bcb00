//! What a reader of the page would notice.

use super::*;
use crate::{Table, ratio::Measured};

fn scored() -> Vec<Scored> {
    [(0.9, true), (0.95, false), (0.2, false), (0.1, true)]
        .into_iter()
        .enumerate()
        .map(|(patient, (score, positive))| Scored { score, positive, patient })
        .collect()
}

#[test]
fn the_furthest_from_the_truth_come_first_and_right_answers_not_at_all() {
    assert_eq!(furthest(&scored(), 0.5, 9), [1, 3]);
    assert_eq!(furthest(&scored(), 0.5, 1), [1]);
    // At an operating point of 0.15 the film at 0.2 without the finding is a mistake too.
    assert_eq!(furthest(&scored(), 0.15, 9), [1, 3, 2]);
    assert_eq!(furthest(&scored(), 0.05, 9), [1, 2]);
}

#[test]
fn names_from_a_table_are_text_and_never_markup() {
    let heading = Heading { title: "<script>".into(), lines: vec!["a & b".into()] };
    let mistake = Mistake {
        title: "<b>".into(),
        says: "<i>".into(),
        file: "\"x\".png".into(),
        png: Some(vec![1, 2, 3]),
        aspect: 0.8,
        drawn: vec![vec![[0.1, 0.2], [0.3, 0.2]]],
    };
    let html = page(&heading, &[mistakes("Worst <mistakes>", &[mistake])]);
    assert!(!html.contains("<script>") && html.contains("&lt;script&gt;"));
    assert!(html.contains("<b>&lt;b&gt;</b> &lt;i&gt;") && html.contains("&quot;x&quot;.png"));
    assert!(html.contains("base64,AQID") && html.contains("0.1000,0.2000 0.3000,0.2000"));
    assert!(html.contains("Worst &lt;mistakes&gt;") && html.contains("aspect-ratio:0.8"));
}

#[test]
fn the_curve_ends_in_its_corners() {
    let svg = roc_svg(&scored(), Some(0.5));
    assert!(svg.contains("class=\"curve\" points=\"46.0,230.0 "), "{svg}");
    assert!(svg.contains(" 266.0,10.0 \""), "{svg}");
    assert!(svg.contains("class=\"mark\"") && !roc_svg(&scored(), None).contains("class=\"mark\""));
}

#[test]
fn every_pair_of_ratios_is_a_dot_in_both_plots() {
    let rows = Table::read("file,ctr\na,0.40\nb,0.60\nc,0.52\nd,\n".as_bytes()).unwrap().rows;
    let scores: Vec<_> = [0.42, 0.56, 0.55, 0.5].map(|own| Some(Measured::Ratio(own))).into();
    let figures = crate::ratio::ratio(&rows, &scores);
    let Section(html) = ratio(&figures, &crate::ratio::pairs(&rows, &scores));
    assert_eq!(html.matches("class=\"dot\"").count(), 6, "{html}");
    assert!(html.contains("true 0.400, measured 0.420"));
    let Section(nothing) = ratio(&figures, &[]);
    assert!(nothing.is_empty());
}
