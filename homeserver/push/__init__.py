"""Which events notify whom: push rules, their evaluation, unread counts."""
