"""What people see in a browser: signing in and up, letting apps in, looking after their account."""
