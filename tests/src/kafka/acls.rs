//! Giving rights on the broker: the one request of Kafka's protocol that no client here can send (CreateAcls, KIP-140).

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

/// A right as `duet topics acls --json` tells it.
#[derive(Debug, Clone, Deserialize)]
pub struct Grant {
    /// The part of Duet that it is for.
    pub service: String,
    /// For instance `User:duet-prepare`.
    pub principal: String,
    /// `topic`, `group` or `transactional-id`.
    pub resource: String,
    /// Its name, or what names begin with.
    pub name: String,
    /// `literal` or `prefixed`.
    pub pattern: String,
    /// `Read`, `Write` or `Describe`.
    pub operation: String,
}

const CREATE_ACLS: i16 = 30;
const ALLOW: i8 = 3;

/// Gives all of `grants`, as the principal of a listener without credentials at `address`.
pub(super) fn create(address: &str, grants: &[Grant]) -> Result<()> {
    let mut body = Vec::new();
    body.extend(u32::try_from(grants.len())?.to_be_bytes());
    for grant in grants {
        let code = |known: &[(&str, i8)], word: &str| {
            let found = known.iter().find(|(name, _)| *name == word).map(|(_, code)| *code);
            found.with_context(|| format!("no code for {word:?} in {grant:?}"))
        };
        let resource =
            code(&[("topic", 2), ("group", 3), ("transactional-id", 5)], &grant.resource)?;
        let pattern = code(&[("literal", 3), ("prefixed", 4)], &grant.pattern)?;
        let operation =
            code(&[("Read", 3), ("Write", 4), ("Create", 5), ("Describe", 8)], &grant.operation)?;
        body.push(resource as u8);
        string(&mut body, &grant.name)?;
        body.push(pattern as u8);
        string(&mut body, &grant.principal)?;
        string(&mut body, "*")?;
        body.push(operation as u8);
        body.push(ALLOW as u8);
    }
    let answer = ask(address, CREATE_ACLS, 1, &body)?;
    // Throttle time, then a code and a message for each.
    let mut at = 4;
    let count = i32::from_be_bytes(take(&answer, &mut at)?);
    ensure!(usize::try_from(count)? == grants.len(), "{count} answers to {} grants", grants.len());
    for grant in grants {
        let code = i16::from_be_bytes(take(&answer, &mut at)?);
        let length = i16::from_be_bytes(take(&answer, &mut at)?);
        let length = usize::try_from(length).unwrap_or(0);
        let message = answer.get(at..at + length).context("the answer breaks off")?;
        at += length;
        if code != 0 {
            bail!("{grant:?}: error {code}, {}", String::from_utf8_lossy(message));
        }
    }
    Ok(())
}

fn string(to: &mut Vec<u8>, text: &str) -> Result<()> {
    to.extend(i16::try_from(text.len())?.to_be_bytes());
    to.extend(text.as_bytes());
    Ok(())
}

fn take<const N: usize>(bytes: &[u8], at: &mut usize) -> Result<[u8; N]> {
    let part = bytes.get(*at..*at + N).context("the answer breaks off")?;
    *at += N;
    Ok(part.try_into()?)
}

/// One request (header version 1) and the body of its answer.
fn ask(address: &str, key: i16, version: i16, body: &[u8]) -> Result<Vec<u8>> {
    let mut request = Vec::new();
    request.extend(key.to_be_bytes());
    request.extend(version.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    string(&mut request, "duet-tests")?;
    request.extend(body);
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&u32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length).context("the broker does not answer")?;
    let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
    stream.read_exact(&mut answer)?;
    // Behind the correlation id.
    Ok(answer.split_off(4))
}
