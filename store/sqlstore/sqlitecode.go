package sqlstore

import "reflect"

// sqliteCode finds SQLite's result code in a driver's error, the extended one if
// the driver knows it. Every driver has its own error type: ncruces a method
// ExtendedCode, modernc a method Code, mattn a field ExtendedCode, each of an
// integer type of its own. Looking for those by name keeps this package free of
// drivers and of matching texts.
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
	// By constant names: with others, the linker keeps every method there is.
	code := v.MethodByName("ExtendedCode")
	if !code.IsValid() {
		code = v.MethodByName("Code")
	}
	switch {
	case code.IsValid() && (v.CanInt() || v.CanUint()):
		code = v // an error that is its extended code, with methods
	case code.IsValid() && code.Type().NumIn() == 0 && code.Type().NumOut() == 1:
		code = code.Call(nil)[0]
	case reflect.Indirect(v).Kind() == reflect.Struct:
		code = reflect.Indirect(v).FieldByName("ExtendedCode")
	}
	switch {
	case !code.IsValid():
	case code.CanInt():
		return int(code.Int()), true
	case code.CanUint():
		return int(code.Uint()), true
	}
	return 0, false
}
