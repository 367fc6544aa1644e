//! The webhook of Tencent Container Registry, which has the form of Harbor 1.x.
//!
//! Fields: cloud.tencent.com/document/product/1141/44369. Only pushes and deletions are documented, and are no findings; where a body holds
//! the result of a scan as Harbor writes it, it is read. The log of deliveries that the API lists (`DescribeWebhookTriggerLog`) is read, too.

use crate::json::{self, object_in_text};
use crate::walk::{items, object_at, text_at};
use crate::{Received, Unreadable, harbor};

const TOOL: &str = "tencent-tcr";

/// Reads events.
pub(crate) fn read(body: &[u8]) -> Result<Received, Unreadable> {
    let mut received = Received::default();
    for object in json::objects(body)? {
        let Some(response) = object_at(&object.fields, &["Response"]) else {
            received.extend(harbor::event(TOOL, &object)?);
            continue;
        };
        let moved = |error: Unreadable| Unreadable { at: format!("Response.{}", error.at), ..error };
        let Some(logs) = items(&object, response, "Logs").map_err(moved)? else {
            return Err(Unreadable::other_format(object.at("Response.Logs"), "the API of TCR lists deliveries here"));
        };
        for (at, log) in logs {
            let detail = text_at(log, &["Detail"]).and_then(|text| object_in_text(&text));
            if let Some(fields) = detail {
                received.extend(harbor::event(TOOL, &object.inside(&format!("Response.{at}.Detail"), fields))?);
            }
        }
    }
    Ok(received)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_push_is_no_finding_and_a_scan_is_one() {
        let push = json!({"type": "pushImage", "occur_at": 1_589_106_605, "operator": "1", "event_data": {"resources": [
            {"digest": "sha256:89a4xxxx", "tag": "v1", "resource_url": "shop.tencentcloudcr.com/public/nginx:v1"}], "repository": {"name": "nginx", "namespace": "public"}}});
        assert_eq!(read(push.to_string().as_bytes()).unwrap(), Received::default());
        let mut scan = push.clone();
        scan["event_data"]["resources"][0]["scan_overview"] = json!({"application/vnd.security.vulnerability.report; version=1.1": {
            "scan_status": "Success", "severity": "Critical", "summary": {"total": 1, "summary": {"Critical": 1}}}});
        let log = json!({"Response": {"Logs": [{"Detail": scan.to_string()}, {"Detail": push.to_string()}]}});
        for body in [scan, log] {
            let received = read(body.to_string().as_bytes()).unwrap();
            assert_eq!(received.signals.len(), 1);
            assert_eq!(received.signals[0].tool, TOOL);
        }
    }

    #[test]
    fn other_bodies_are_refused_with_their_place() {
        for (body, at) in [(json!({"a": 1}), "type"), (json!({"Response": {"List": []}}), "Response.Logs")] {
            assert_eq!(read(body.to_string().as_bytes()).unwrap_err().at, at, "{body}");
        }
    }
}
