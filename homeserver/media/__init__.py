"""The content repository: files that users upload, and small pictures of them.

spec: client-server-api#content-repository
"""
