package sqlstore

import "reflect"

// sqliteCode finds SQLite's primary result code in a driver's error. Every
// driver has its own error type: ncruces a method ExtendedCode, modernc a
// method Code, mattn a field Code, each of an integer type of its own. Looking
// for those by name keeps this package free of drivers and of matching texts.
func sqliteCode(err error) (int, bool) {
	switch e := err.(type) {
	case nil:
		return 0, false
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if code, ok := sqliteCode(err); ok {
				return code, true
			}
		}
		return 0, false
	case interface{ Unwrap() error }:
		// The driver's error may itself wrap one of the system.
		if code, ok := codeOf(err); ok {
			return code, true
		}
		return sqliteCode(e.Unwrap())
	}
	return codeOf(err)
}

func codeOf(err error) (int, bool) {
	v := reflect.ValueOf(err)
	code := v.MethodByName("ExtendedCode")
	if !code.IsValid() {
		code = v.MethodByName("Code")
	}
	switch {
	case code.IsValid() && code.Type().NumIn() == 0 && code.Type().NumOut() == 1:
		code = code.Call(nil)[0]
	case reflect.Indirect(v).Kind() == reflect.Struct:
		code = reflect.Indirect(v).FieldByName("Code")
	}
	const primary = 0xff // an extended code keeps the primary one in its low byte
	switch {
	case !code.IsValid():
	case code.CanInt():
		return int(code.Int() & primary), true
	case code.CanUint():
		return int(code.Uint() & primary), true
	}
	return 0, false
}
