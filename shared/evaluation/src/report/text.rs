//! Sections of texts and pictures, without figures.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Section, escape};

/// A table of texts; nothing where it has no rows.
pub fn table(title: &str, header: &[&str], rows: &[Vec<String>]) -> Section {
    if rows.is_empty() {
        return Section(String::new());
    }
    let mut html = format!("<h2>{}</h2><table><tr>", escape(title));
    for name in header {
        let _ = write!(html, "<th>{}</th>", escape(name));
    }
    html.push_str("</tr>");
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            let _ = write!(html, "<td>{}</td>", escape(cell));
        }
        html.push_str("</tr>");
    }
    html.push_str("</table>");
    Section(html)
}

/// Two pictures of one image, and what differs between them.
pub struct SideBySide<'a> {
    /// For instance the image's id.
    pub title: &'a str,
    /// What differs, a line each.
    pub lines: Vec<String>,
    /// PNG, or why there is none.
    pub pictures: [Result<&'a [u8], &'a str>; 2],
}

/// Pictures side by side; nothing where there are none.
pub fn side_by_side(title: &str, pairs: &[SideBySide<'_>]) -> Section {
    if pairs.is_empty() {
        return Section(String::new());
    }
    let mut html = format!("<h2>{}</h2>", escape(title));
    for pair in pairs {
        let _ = write!(html, "<section><h3>{}</h3><div class=pair>", escape(pair.title));
        for picture in &pair.pictures {
            match picture {
                Ok(png) => {
                    let data = STANDARD.encode(png);
                    let _ = write!(html, "<img alt=\"\" src=\"data:image/png;base64,{data}\">");
                }
                Err(why) => {
                    let _ = write!(html, "<p>no picture: {}</p>", escape(why));
                }
            }
        }
        html.push_str("</div><ul>");
        for line in &pair.lines {
            let _ = write!(html, "<li>{}</li>", escape(line));
        }
        html.push_str("</ul></section>");
    }
    Section(html)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Heading, page},
        *,
    };

    #[test]
    fn a_pair_shows_both_pictures_or_why_there_is_none() {
        let pair = SideBySide {
            title: "c-1",
            lines: vec!["<i>: 0.2 → 0.9".into()],
            pictures: [Ok(&[1, 2, 3]), Err("gone & lost")],
        };
        let heading = Heading { title: "t".into(), lines: Vec::new() };
        let none = table("without rows", &["a"], &[]);
        let some = table("full", &["a"], &[vec!["<b>".into()]]);
        let html = page(&heading, &[side_by_side("pairs", &[pair]), none, some]);
        for says in ["base64,AQID", "gone &amp; lost", "&lt;i&gt;", "<h2>full</h2>", "&lt;b&gt;"] {
            assert!(html.contains(says), "{says} is not in {html}");
        }
        assert!(!html.contains("without rows"));
    }
}
