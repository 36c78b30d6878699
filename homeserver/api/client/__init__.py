"""The client-server API. spec: client-server-api"""
