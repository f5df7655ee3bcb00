//! An index's page of one package: the addresses of its files.

use serde::Deserialize;

/// Of the JSON form (PEP 691), what is needed.
#[derive(Deserialize)]
struct Page {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    url: String,
}

/// The links of a page in JSON.
pub(super) fn json(body: &[u8]) -> Result<Vec<String>, String> {
    let page: Page = serde_json::from_slice(body)
        .map_err(|error| format!("its answer is not a list of files: {error}"))?;
    Ok(page.files.into_iter().map(|file| file.url).collect())
}

/// The links of a page in HTML: the `href` of each `a`.
pub(super) fn html(body: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(body).map_err(|_| "its answer is not text".to_owned())?;
    // Letters keep their places: only ASCII ones change.
    let lower = text.to_ascii_lowercase();
    let (mut links, mut at) = (Vec::new(), 0);
    while let Some(begins) = lower.get(at..).and_then(|rest| rest.find("<a")) {
        let begins = at + begins + 2;
        let ends = lower.get(begins..).and_then(|rest| rest.find('>'));
        let ends = begins + ends.unwrap_or(lower.len() - begins);
        links.extend(
            lower.get(begins..ends).zip(text.get(begins..ends)).and_then(|(l, t)| href(l, t)),
        );
        at = ends;
    }
    Ok(links)
}

/// The value of `href` among the attributes `text`, whose lower-case form is `lower`.
fn href(lower: &str, text: &str) -> Option<String> {
    let is_name = |at: &usize| lower.get(..*at).is_some_and(|s| s.ends_with(char::is_whitespace));
    let at = lower.match_indices("href").map(|(at, _)| at).find(is_name)?;
    let value = text.get(at + 4..)?.trim_start().strip_prefix('=')?.trim_start();
    let raw = match value.chars().next()? {
        quote @ ('"' | '\'') => value.get(1..)?.split(quote).next()?,
        _ => value.split(char::is_whitespace).next()?,
    };
    let plain = raw.replace("&quot;", "\"").replace("&#39;", "'").replace("&lt;", "<");
    Some(plain.replace("&gt;", ">").replace("&amp;", "&"))
}

/// A part of an address with its `%xx` read.
pub(super) fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = (byte == b'%').then(|| after.get(..2)).flatten();
        let code = code.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        bytes.push(code.unwrap_or(byte));
        rest = if code.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_as_indexes_write_them() {
        let page = r#"<!DOCTYPE html><html><body><h1>Links</h1>
            <a href="../../packages/a-1.0-py3-none-any.whl#sha256=ab">a-1.0-py3-none-any.whl</a><br/>
            <A data-requires-python="&gt;=3.9" HREF='https://h/b%2B1.whl?x=1&amp;y=2' >b</A>
            <a href=c.whl>c</a> <a name="none"> <abbr title=x> <a data-href="no" href = "d.whl">d</a> <a"#;
        let links = html(page.as_bytes()).unwrap();
        assert_eq!(
            links,
            [
                "../../packages/a-1.0-py3-none-any.whl#sha256=ab",
                "https://h/b%2B1.whl?x=1&y=2",
                "c.whl",
                "d.whl"
            ]
        );
        assert_eq!(unescaped("b%2B1%zz%4"), "b+1%zz%4");
        let page = br#"{"meta":{"api-version":"1.1"},"files":[{"filename":"a","url":"../a.whl","hashes":{}}]}"#;
        assert_eq!(json(page).unwrap(), ["../a.whl"]);
        assert!(json(b"<html>").unwrap_err().contains("list of files"));
    }
}
