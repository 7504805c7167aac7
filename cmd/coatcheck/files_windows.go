package main

// privateFiles does nothing: on Windows the user's folders are private.
func privateFiles() {}
