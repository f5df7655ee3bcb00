//! `duet tokens new`: a token for its client, and the entry by which the configuration knows it again.

use std::{fs::OpenOptions, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use anyhow::{Context as _, Result, bail};
use chrono::Utc;
use duet_http::{NewToken, Permission, TokenConfig};

use crate::{
    Usage,
    cli::{self, May},
    output,
};

pub(crate) fn new(args: &cli::NewToken) -> Result<()> {
    if !TokenConfig::is_name(&args.name) {
        bail!(Usage(format!(
            "--name {:?} cannot be a token's name: take 1 to 64 of a-z, 0-9, dot, hyphen and underscore",
            args.name
        )));
    }
    if let Some(expires) = &args.expires {
        match TokenConfig::end_of(expires) {
            None => bail!(Usage(format!(
                "--expires {expires:?} is no time: write a day (2027-01-31) or a time (2027-01-31T12:00:00Z)"
            ))),
            Some(end) if end <= Utc::now() => {
                bail!(Usage(format!(
                    "--expires {expires} is over: the token would never let anybody in"
                )))
            }
            Some(_) => {}
        }
    }
    let token = NewToken::generate()?;
    let entry = entry(args, &token);
    match &args.token_file {
        Some(path) => {
            keep(path, &token)?;
            output::note(format_args!(
                "The token is in {}; add what follows to duet.toml:",
                path.display()
            ));
            output::text(&entry)
        }
        None => {
            output::note(format_args!("The token, shown this once, for its client alone:"));
            output::line(format_args!("{}", token.secret()))?;
            output::note(format_args!("Its entry for duet.toml:"));
            output::text(&entry)
        }
    }
}

/// An entry of `http.tokens` that may stand anywhere behind the `[http]` of a file.
fn entry(args: &cli::NewToken, token: &NewToken) -> String {
    let mut may: Vec<_> = [(May::Send, Permission::Send), (May::Read, Permission::Read)]
        .into_iter()
        .filter(|(may, _)| args.may.is_empty() || args.may.contains(may))
        .map(|(_, permission)| format!("{:?}", permission.name()))
        .collect();
    may.dedup();
    let expires = args.expires.as_ref().map(|end| format!("expires = {end:?}\n"));
    format!(
        "\n[[http.tokens]]\nname = {:?}\nsha256 = {:?}\n{}permissions = [{}]\n",
        args.name,
        token.sha256(),
        expires.unwrap_or_default(),
        may.join(", ")
    )
}

fn keep(path: &Path, token: &NewToken) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file =
        file.with_context(|| format!("--token-file {} cannot be made", path.display()))?;
    writeln!(file, "{}", token.secret())
        .with_context(|| format!("the token cannot be written into {}", path.display()))
}
