//! `sluice explain`.
pub fn run(_args: &crate::args::ExplainArgs, _settings: &crate::config::Settings) -> anyhow::Result<u8> {
    anyhow::bail!("later")
}
