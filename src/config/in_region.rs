//! Paths and URLs that name the agent's region.

use crate::protocol::Origin;

/// In a path or a URL, the region of the agent.
pub(super) const REGION: &str = "{region}";

/// A text in which `{region}` stands for a region's name.
pub fn in_region(text: &str, region: &Origin) -> String {
    text.replace(REGION, region.as_str())
}
