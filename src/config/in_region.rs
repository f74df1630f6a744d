//! Paths and URLs that name the agent's region.

use toml::Spanned;
use url::Url;

use super::problem::Problem;
use crate::protocol::Origin;

/// In a path or a URL, the region of the agent.
pub(super) const REGION: &str = "{region}";

/// A text in which `{region}` stands for a region's name.
pub fn in_region(text: &str, region: &Origin) -> String {
    text.replace(REGION, region.as_str())
}

/// A URL in which `{region}` stands for a region's name, if it is given: it must be one in each of these.
#[cfg_attr(
    not(any(feature = "lambda", feature = "s3")),
    expect(dead_code, reason = "files have no endpoint")
)]
pub(super) fn url_in_each(
    url: Option<&Spanned<String>>,
    regions: &[Origin],
) -> Result<Option<String>, Problem> {
    let Some(text) = url else { return Ok(None) };
    for region in regions {
        Url::parse(&in_region(text.get_ref(), region))
            .map_err(|error| Problem::at(text, format!("expected a URL: {error}")))?;
    }
    Ok(Some(text.get_ref().clone()))
}
