"""OAuth 2.0: apps log people in without seeing their password. spec: client-server-api#oauth-20-api"""
