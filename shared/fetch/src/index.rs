//! Where a wheel is: a Python package index (PEP 503 and 691), the one that pip uses here.

mod page;
mod pip;

use std::path::{Path, PathBuf};

use duet_inference::Package;
use reqwest::{
    Client, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE},
};

use crate::{FetchError, error::shown};

/// Where Python packages are unless pip is told otherwise.
const PYPI: &str = "https://pypi.org/simple";
/// The newer form first; mirrors may know the older one alone.
const FORMS: &str = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1";
/// A page of the index.
const MAX_PAGE: u64 = 32 << 20;

/// The package indexes to ask, in order.
#[derive(Debug, Clone)]
pub struct PackageIndex {
    urls: Vec<Url>,
    certificates: Option<PathBuf>,
}

impl PackageIndex {
    /// Those that pip is configured for: `PIP_INDEX_URL` and `PIP_EXTRA_INDEX_URL`, else `index-url` and
    /// `extra-index-url` in pip's configuration files, else PyPI. `PIP_CERT` or `cert` names further authorities.
    ///
    /// # Errors
    ///
    /// Where one of them is no address.
    pub fn of_pip() -> Result<Self, FetchError> {
        let settings = pip::Settings::of_this_user();
        let mut urls = vec![settings.index_url.unwrap_or_else(|| PYPI.to_owned())];
        urls.extend(settings.extra_index_urls);
        let index = Self::at(&urls)?;
        Ok(Self { certificates: settings.cert, ..index })
    }

    /// Those at `urls`.
    ///
    /// # Errors
    ///
    /// Where one of them is no address.
    pub fn at(urls: &[String]) -> Result<Self, FetchError> {
        let parse = |url: &String| {
            let parsed =
                Url::parse(url).ok().filter(|own| ["http", "https"].contains(&own.scheme()));
            parsed.ok_or_else(|| FetchError::Address { url: url.clone() })
        };
        Ok(Self { urls: urls.iter().map(parse).collect::<Result<_, _>>()?, certificates: None })
    }

    pub(crate) fn certificates(&self) -> Option<&Path> {
        self.certificates.as_deref()
    }

    /// The address of the package's wheel.
    pub(crate) async fn find(&self, client: &Client, package: &Package) -> Result<Url, FetchError> {
        for index in &self.urls {
            if let Some(found) = look(client, index, package).await? {
                return Ok(found);
            }
        }
        let indexes = self.urls.iter().map(shown).collect::<Vec<_>>().join(", ");
        Err(FetchError::NoWheel { wheel: package.wheel.clone(), indexes })
    }
}

/// The address of the package's wheel, where that index has it.
async fn look(client: &Client, index: &Url, package: &Package) -> Result<Option<Url>, FetchError> {
    let mut url = index.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().push(&normal(&package.name)).push("");
    }
    let sent = client.get(url.clone()).header(ACCEPT, FORMS).send().await;
    let mut response = sent.map_err(|error| FetchError::connection(&url, &error))?;
    match response.status() {
        StatusCode::NOT_FOUND => return Ok(None),
        StatusCode::OK => {}
        status => return Err(FetchError::Status { url: shown(&url), status }),
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.contains("json"));
    let base = response.url().clone();
    let mut body = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| FetchError::connection(&url, &error))?
    {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > MAX_PAGE {
            let reason = format!("its page of the package has more than {MAX_PAGE} bytes");
            return Err(FetchError::Index { url: shown(&url), reason });
        }
    }
    let links = if is_json { page::json(&body) } else { page::html(&body) };
    let links = links.map_err(|reason| FetchError::Index { url: shown(&url), reason })?;
    let of_wheel = |link: &String| {
        let mut found = base.join(link).ok()?;
        let name = found.path_segments()?.next_back()?;
        if page::unescaped(name) != package.wheel {
            return None;
        }
        found.set_fragment(None);
        // What the index asks for is asked for its files too, where they are on the same host.
        let same = (found.host_str(), found.port_or_known_default(), found.scheme())
            == (index.host_str(), index.port_or_known_default(), index.scheme());
        if same && found.username().is_empty() {
            let _has_a_host = found.set_username(index.username());
            let _has_a_host = found.set_password(index.password());
        }
        Some(found)
    };
    Ok(links.iter().find_map(of_wheel))
}

/// A package's name as it stands in an index's addresses.
fn normal(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let parts = lower.split(['-', '_', '.']).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_index() {
        for (name, wanted) in [("a_b", "a-b"), ("A.-_b", "a-b"), ("gt-all", "gt-all")] {
            assert_eq!(normal(name), wanted);
        }
    }

    #[test]
    fn an_index_that_is_no_address_is_refused_by_name() {
        for url in ["nowhere", "file:///etc/passwd", "ftp://host/simple"] {
            let error = PackageIndex::at(&[url.to_owned()]).unwrap_err().to_string();
            assert!(error.contains(url), "{error}");
        }
    }
}
