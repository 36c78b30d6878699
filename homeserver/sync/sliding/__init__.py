"""Sliding sync: the rooms that a client asks for, by place in lists and by name. proposal: MSC4186"""
