"""The run API in Inngest's second shape, under `/v2`: one file a resource. Source: semantics
§2.8."""
